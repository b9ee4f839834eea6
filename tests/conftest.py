import hypothesis
import keras
import pytest

# A first call traces and compiles, which says nothing about the speed of the code.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def seed_everything():
    keras.utils.set_random_seed(0)
