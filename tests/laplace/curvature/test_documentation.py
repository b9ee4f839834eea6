import pathlib
import re

import numpy as np

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "extending_curvature.md"


def test_page_runs_and_its_rule_is_right():
    source = "\n".join(
        re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.S | re.M)
    )
    page = {"__name__": "page"}
    exec(compile(source, PAGE.name, "exec"), page)
    scale, _, _ = page["blocks"]
    kernel = np.asarray(page["scaled"].layers[-1].kernel)
    logits = page["x"] @ kernel
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    jacobians = page["x"][:, :, None] * kernel
    hessians = p[:, :, None] * (np.eye(3) - p[:, None, :])
    expected = np.einsum("nic,ncd,njd->ij", jacobians, hessians, jacobians)
    np.testing.assert_allclose(scale.output_factor, expected, rtol=1e-4, atol=1e-4)
