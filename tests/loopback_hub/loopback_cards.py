"""What the Hub checks in a README.md's front matter, and how it words the answer."""

import math
import re

import yaml

FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
# huggingface.co/docs/hub/repositories-licenses
_LICENSES = """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl
    gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr
    mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma
    unknown other"""
LICENSES = _LICENSES.split()
# The computer-vision part of huggingface.co/tasks, and the few others a segmentation project could mean.
_PIPELINE_TAGS = """depth-estimation image-classification image-feature-extraction image-segmentation image-text-to-text
    image-to-3d image-to-image image-to-text image-to-video keypoint-detection mask-generation object-detection other
    text-to-3d text-to-image text-to-video unconditional-image-generation video-classification video-to-video
    visual-question-answering zero-shot-image-classification zero-shot-object-detection"""
PIPELINE_TAGS = _PIPELINE_TAGS.split()
REPO_ID = re.compile(r"(?:[\w.-]+/)?[\w.-]{1,96}")


def read_front_matter(text: str) -> dict:
    """The front matter of a card that is stored, thus already checked."""
    match = FRONT_MATTER.match(text)
    return (yaml.safe_load(match[1]) if match else None) or {}


def check_card(text: str, kind: str) -> tuple[list[str], list[str]]:
    """The errors and the warnings huggingface.co would give for a README.md of a "model", "dataset" or "space"."""
    # Imported late: the library reads HF_ENDPOINT once, at import, and a script may set it after it starts a Hub.
    from huggingface_hub import DatasetCardData, ModelCardData, SpaceCardData

    match = FRONT_MATTER.match(text)
    if not match:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"YAML Metadata Error: {error}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["YAML Metadata Error: the front matter must be a mapping"], []
    errors = [*_shape_errors(data), *_value_errors(data)]
    if kind == "space" and data.get("sdk") not in ("gradio", "docker", "static"):
        errors.append('"sdk" must be one of [gradio, docker, static]')
    if kind == "model":
        errors += _model_index_errors(data.get("model-index"))
    try:
        {"model": ModelCardData, "dataset": DatasetCardData, "space": SpaceCardData}[kind](**data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        errors += [] if errors else [f"metadata does not parse: {error}"]
    warnings = []
    if data.get("license") == "other" and not data.get("license_name"):
        warnings.append('"license_name" is recommended when "license" is "other"')
    return errors, warnings


def _shape_errors(data: dict):
    for key in ("tags", "datasets", "metrics", "task_categories"):
        value = data.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            yield f'"{key}" must be an array of strings'
    for key in ("library_name", "pipeline_tag", "base_model_relation", "license_name", "pretty_name"):
        if key in data and not isinstance(data[key], str):
            yield f'"{key}" must be a string'
    configs = data.get("configs", [])
    if not isinstance(configs, list) or any("config_name" not in item for item in configs):
        yield '"configs" must be an array of objects with a "config_name"'


def _value_errors(data: dict):
    licenses = data["license"] if isinstance(data.get("license"), list) else [data.get("license")]
    if any(item is not None and item not in LICENSES for item in licenses):
        yield f'"license" must be one of [{", ".join(LICENSES)}]'
    if data.get("pipeline_tag") not in (None, *PIPELINE_TAGS):
        yield f'"pipeline_tag" with value "{data["pipeline_tag"]}" is not valid'
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", str(data.get("library_name", "x"))):
        yield f'"library_name" with value "{data["library_name"]}" is not valid'
    if data.get("base_model_relation") not in (None, "finetune", "adapter", "merge", "quantized"):
        yield '"base_model_relation" must be one of [adapter, finetune, merge, quantized]'
    for key, place in (("base_model", "models"), ("models", "models"), ("datasets", "datasets")):
        values = data.get(key) or []
        for value in [values] if isinstance(values, str) else values:
            if not REPO_ID.fullmatch(str(value)):
                yield f'"{key}" with value "{value}" is not valid. Use an id from https://hf.co/{place}.'


def _model_index_errors(index):
    if index is None:
        return
    if not isinstance(index, list) or not all(isinstance(entry, dict) for entry in index):
        yield '"model-index" must be an array of objects'
        return
    for e, entry in enumerate(index):
        if not entry.get("name"):
            yield f'"model-index[{e}].name" is required'
        for r, result in enumerate(entry.get("results") or []):
            at = f"model-index[{e}].results[{r}]"
            for group, key in (("task", "type"), ("dataset", "type"), ("dataset", "name")):
                if not (result.get(group) or {}).get(key):
                    yield f'"{at}.{group}.{key}" is required'
            if not REPO_ID.fullmatch(str((result.get("dataset") or {}).get("type", "x"))):
                yield f'"{at}.dataset.type" with value "{result["dataset"]["type"]}" is not valid'
            if not result.get("metrics"):
                yield f'"{at}.metrics" is required'
            for m, metric in enumerate(result.get("metrics") or []):
                for key in ("type", "value"):
                    if metric.get(key) is None:
                        yield f'"{at}.metrics[{m}].{key}" is required'
                if isinstance(metric.get("value"), float) and not math.isfinite(metric["value"]):
                    yield f'"{at}.metrics[{m}].value" must be a finite number'
