import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run_python(source):
    """Runs `source` in a fresh interpreter, away from this one's imports."""
    return subprocess.run(
        [sys.executable, "-c", source],
        cwd=ROOT,
        env={
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def after_import():
    """What `import keras_bmr` leaves behind."""
    completed = run_python(
        """
import json, os, sys
import keras, tensorflow, tensorflow_probability
before = dict(os.environ)
modules_before = set(sys.modules)
import keras_bmr
from tensorflow.python.eager import context
print(json.dumps({
    "environment": sorted(set(before.items()) ^ set(os.environ.items())),
    "modules": sorted(set(sys.modules) - modules_before),
    "tf_keras": tensorflow.keras.__version__,
    "keras": keras.__version__,
    "devices_initialized": context.context()._initialized,
}))
"""
    )
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout.splitlines()[-1])


def test_import_sets_no_environment_variable(after_import):
    assert after_import["environment"] == []


def test_import_touches_no_device(after_import):
    assert after_import["devices_initialized"] is False


@pytest.mark.parametrize(
    "module",
    [
        "matplotlib",
        "ai_edge_litert",
        "ai_edge_quantizer",
        "tensorflow_model_optimization",
    ],
)
def test_import_leaves_optional_packages_alone(after_import, module):
    assert "keras_bmr" in after_import["modules"]
    assert module not in after_import["modules"]


def test_import_leaves_tf_keras_as_keras_3(after_import):
    assert after_import["tf_keras"] == after_import["keras"]
    assert after_import["keras"].startswith("3.")


def test_another_backend_is_refused_by_name():
    # The other backends are not installed where this runs.
    completed = run_python(
        "import keras; keras.backend.backend = lambda: 'torch'; import keras_bmr"
    )
    assert completed.returncode != 0
    message = completed.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError")
    assert "tensorflow" in message.lower()
    assert "torch" in message


def test_sources_contain_no_absolute_path():
    # /proc is the kernel's, the same on every Linux machine.
    absolute = re.compile(
        r"""(?:^|[\s"'(=])(?:/(?!proc/)[\w.-]+/[\w.-]|[A-Za-z]:\\\w)"""
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in ("keras_bmr", "examples", "benchmarks", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if absolute.search(line)
    ]
    assert not found, "\n".join(found)
