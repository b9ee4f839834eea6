"""Metadata in a file, whose network stays the same."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import keras_bmr
from keras_bmr.export import Metadata, export_tflite, read_metadata
from keras_bmr.export.metadata import METADATA_NAME

METADATA = Metadata(
    labels=["Kaninchen", "Füchse", "鳥"],
    input_scale=(1 / 255, 0.5, 2.0),
    input_offset=-0.5,
    description="Three animals",
)


def network():
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def images():
    return np.random.default_rng(0).normal(size=(32, 6, 6, 3)).astype("float32")


def outputs(content):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    found = []
    for image in images():
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        found.append(
            interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        )
    return np.concatenate(found)


@pytest.fixture(scope="module", params=[None, "int8"])
def contents(request, tmp_path_factory):
    """The file without metadata and the one with them, of one network."""
    folder, model = tmp_path_factory.mktemp("metadata"), network()
    found = []
    for name, metadata in (("plain", None), ("described", METADATA)):
        path = folder / f"{name}.tflite"
        report = export_tflite(
            model,
            path,
            quantize=request.param,
            representative_data=images(),
            metadata=metadata,
        )
        assert report.bytes == path.stat().st_size
        assert report.metadata is metadata
        found.append(path.read_bytes())
    return found


def test_metadata_are_read_again(contents):
    plain, described = contents
    assert read_metadata(described) == METADATA
    assert read_metadata(plain) is None


def test_network_is_the_same(contents):
    plain, described = contents
    np.testing.assert_array_equal(outputs(described), outputs(plain))


def test_everything_else_stays_where_it_was(contents):
    plain, described = contents
    start = len(described) - len(plain) - (-len(plain) % 16)
    assert described[start : start + len(plain)] == plain
    # So that what was aligned still is.
    assert start % 16 == 0
    # The two lists that are new, and the text itself.
    assert start < 1000


def test_text_is_aligned_and_found_by_its_name(contents):
    plain, described = contents
    model = schema.Model.GetRootAs(described, 0)
    names = [model.Metadata(i).Name() for i in range(model.MetadataLength())]
    before = schema.Model.GetRootAs(plain, 0)
    assert names[:-1] == [
        before.Metadata(i).Name() for i in range(before.MetadataLength())
    ]
    assert names[-1] == METADATA_NAME.encode()
    buffer = model.Buffers(model.Metadata(len(names) - 1).Buffer())
    position = described.index(bytes(buffer.DataAsNumpy()))
    assert position % 16 == 0


def test_all_fields_of_the_root_are_there(contents):
    plain, described = (schema.ModelT.InitFromPackedBuf(c) for c in contents)
    assert described.version == plain.version
    assert described.description == plain.description
    assert len(described.buffers) == len(plain.buffers) + 1
    assert len(described.operatorCodes) == len(plain.operatorCodes)
    assert (described.signatureDefs is None) == (plain.signatureDefs is None)


def test_labels_of_another_number_are_refused(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"an older file")
    with pytest.raises(ValueError, match=r"last axis: \[3\]. Received: 2 labels"):
        export_tflite(network(), path, metadata=Metadata(labels=["one", "two"]))
    assert path.read_bytes() == b"an older file"
    with pytest.raises(TypeError, match="keras_bmr.export.Metadata"):
        export_tflite(network(), path, metadata={"labels": ["a", "b", "c"]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": "cat"}, "sequence of strings"),
        ({"labels": ["cat", 1]}, "sequence of strings"),
        ({"labels": ["cat", "cat"]}, "differ"),
        ({"input_scale": float("nan")}, "`input_scale` must be a finite"),
        ({"input_scale": [1.0, 0.0]}, "must not be zero"),
        ({"input_offset": []}, "`input_offset` must be a finite"),
        ({"input_offset": "much"}, "`input_offset` must be a finite"),
        ({"description": 3}, "`description` must be a string"),
    ],
)
def test_bad_metadata_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Metadata(**arguments)


def test_labels_are_in_the_report(tmp_path):
    report = keras_bmr.export_tflite(
        network(), tmp_path / "model.tflite", metadata=METADATA
    )
    assert "Kaninchen, Füchse, 鳥" in str(report)
    assert report.layout.metadata > len("Three animals")
