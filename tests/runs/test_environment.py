import json

import torch

from hf_urbanseg.runs.environment import describe_environment


def test_describe_environment__versions_but_no_person_or_path():
    environment = describe_environment()
    assert environment["torch"] == torch.__version__
    assert {"python", "transformers", "accelerate", "datasets", "albumentations", "device"} <= set(environment)
    assert not any("/" in value or "\\" in value for value in environment.values())
    json.dumps(environment)
