"""What the passes of a prediction cost: single scale, 12 passes and a sliding window, ours against the naive loop.

    OMP_NUM_THREADS=1 python benchmarks/predict.py                    # B0, rendered frames of 375x1242
    python benchmarks/predict.py --images_dir kitti48/training/image_2 --model b2

`naive` is the definition written down, with transformers' decode head: for every pass forward, upsample the logits to
the size of the image, softmax, unflip, add; for windows a full-size sum of padded logits and a count. `ours` is what
predict.py and evaluate.py do. Both run in turn, image by image, in every round; reported are the median over rounds and
images with the range, and beside the time the largest difference of the probabilities and the share of pixels with
another class. Seconds are of the wall, with `cpu s` of the process beside them, which other programs on the machine
disturb less. Peak memory is of a process of its own for each candidate (less what it holds before the first image).
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import describe_environment, in_own_process, measure_growth, show_environment, spread, write_report
from PIL import Image

from hf_urbanseg.data.preprocessing import build_views
from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.inference.multi_scale import predict_probabilities, predict_views
from hf_urbanseg.inference.plan import PLAIN, REPORT_RATIOS, PredictionPlan
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.inference.sliding_window import compute_window_starts
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_image_processor, build_random_model
from hf_urbanseg.models.decode_head import apply_fast_decode_head
from hf_urbanseg.models.sizes import choose_eval_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images_dir", help="folder of images; default: rendered streets")
    parser.add_argument("--images", type=int, default=2, help="images of the list")
    parser.add_argument("--image_size", type=int, nargs=2, default=(375, 1242), help="of rendered streets")
    parser.add_argument("--model", default="b0", help="size of a model with random weights, or a trained folder")
    parser.add_argument("--size", type=int, nargs=2, help="input height and width; default: of the images")
    parser.add_argument("--window", type=int, nargs=2, default=(368, 368))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max_batch_pixels", type=int, default=PLAIN.max_batch_pixels)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file for the numbers")
    args = parser.parse_args()

    images, limit = load_images(args), {"max_batch_pixels": args.max_batch_pixels}
    plans = {
        "single scale": PredictionPlan(**limit),
        "12 passes": PredictionPlan(REPORT_RATIOS, flip=True, **limit),
        f"window {args.window[0]}x{args.window[1]}": PredictionPlan(window=tuple(args.window), **limit),
    }
    results = measure_times(args, images, plans)
    for name, plan in plans.items():
        for kind in KINDS:
            results[name][kind]["peak_mb"] = in_own_process(measure_peak, args, plan, kind)
    environment = describe_environment(args.device)
    print_table(args, images, results, environment)
    write_report(args, environment, results=results, table=build_table(args, images, results))


def load_images(args) -> list[Image.Image]:
    if args.images_dir:
        paths = sorted(path for path in Path(args.images_dir).iterdir() if path.suffix in (".png", ".jpg", ".jpeg"))
        return [Image.open(path).convert("RGB") for path in paths[: args.images]]
    size = tuple(args.image_size)
    return [Image.fromarray(render_scene(args.seed + number, size)[0]) for number in range(args.images)]


def build_predictor(args, images, plan: PredictionPlan, kind: str) -> Predictor:
    if Path(args.model).is_dir():
        return Predictor.from_pretrained(args.model, args.device, plan, stock_decode_head=kind == "naive")
    torch.manual_seed(args.seed)
    model = build_random_model(args.model, CITYSCAPES)
    # Fresh weights give nearly equal classes everywhere; these give maps of several.
    torch.nn.init.normal_(model.decode_head.classifier.weight, std=1.0)
    if kind == "ours":
        apply_fast_decode_head(model)
    size = tuple(args.size or choose_eval_size({images[0].size[::-1]: 1}))
    return Predictor(model.eval(), build_image_processor(size), args.device, plan)


def predict_ours(predictor: Predictor, image: Image.Image) -> torch.Tensor:
    views = [view[None] for view in build_views(image, predictor.image_processor, predictor.sizes)]
    return predict_views(predictor.model, views, [image.size[::-1]], predictor.plan)[0]


def predict_naively(predictor: Predictor, image: Image.Image, probabilities: bool = False) -> torch.Tensor:
    """Every pass for itself, at full size."""
    plan, size, total = predictor.plan, image.size[::-1], 0
    views = build_views(image, predictor.image_processor, predictor.sizes)
    with torch.no_grad():
        for view in views:
            for flip in (False, True)[: 1 + plan.flip]:
                pixel_values = view[None].to(predictor.model.device)
                logits = predict_logits(predictor.model, pixel_values.flip(-1) if flip else pixel_values, plan)
                logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
                if plan.passes > 1 or probabilities:
                    logits = logits.softmax(1)
                total = total + (logits.flip(-1) if flip else logits)
    return total[0] / plan.passes if probabilities else total[0].argmax(0)


def predict_logits(model, pixel_values: torch.Tensor, plan: PredictionPlan) -> torch.Tensor:
    if plan.window is None:
        return model(pixel_values=pixel_values).logits
    height, width = pixel_values.shape[-2:]
    window_height, window_width = min(plan.window[0], height), min(plan.window[1], width)
    total, count = 0, torch.zeros(height, width, device=pixel_values.device)
    for top in compute_window_starts(height, window_height, plan.steps[0]):
        for left in compute_window_starts(width, window_width, plan.steps[1]):
            bottom, right = top + window_height, left + window_width
            logits = model(pixel_values=pixel_values[..., top:bottom, left:right]).logits
            logits = F.interpolate(logits, (window_height, window_width), mode="bilinear", align_corners=False)
            total = total + F.pad(logits, (left, width - right, top, height - bottom))
            count[top:bottom, left:right] += 1
    return total / count


KINDS = {"ours": predict_ours, "naive": predict_naively}


def measure_times(args, images, plans: dict[str, PredictionPlan]) -> dict:
    predictors = {
        name: {kind: build_predictor(args, images, plan, kind) for kind in KINDS} for name, plan in plans.items()
    }
    results = {name: {kind: {"seconds": [], "cpu_seconds": []} for kind in KINDS} for name in plans}
    for turn in range(args.rounds + 1):  # the first warms up
        for image in images:
            for name, pair in predictors.items():
                found = {}
                for kind in sorted(KINDS, reverse=turn % 2):
                    start, cpu = time.perf_counter(), time.process_time()
                    found[kind] = KINDS[kind](pair[kind], image).cpu()
                    if turn:
                        results[name][kind]["seconds"].append(time.perf_counter() - start)
                        results[name][kind]["cpu_seconds"].append(time.process_time() - cpu)
                start = time.perf_counter()
                build_views(image, pair["ours"].image_processor, pair["ours"].sizes)
                results[name].setdefault("view_seconds", []).append(time.perf_counter() - start)
                if turn == 0:
                    compare(results[name], pair, image, found)
    return results


def compare(result: dict, pair: dict, image: Image.Image, found: dict[str, torch.Tensor]) -> None:
    predictor = pair["ours"]
    views = [view[None] for view in build_views(image, predictor.image_processor, predictor.sizes)]
    (ours,) = predict_probabilities(predictor.model, views, [image.size[::-1]], predictor.plan)
    difference = float((ours - predict_naively(pair["naive"], image, probabilities=True)).abs().max())
    other = float((found["ours"] != found["naive"]).double().mean())
    result["max_difference"] = max(result.get("max_difference", 0.0), difference)
    result["share_of_other_classes"] = max(result.get("share_of_other_classes", 0.0), other)
    result["classes_predicted"] = max(result.get("classes_predicted", 0), len(found["ours"].unique()))


def measure_peak(args, plan: PredictionPlan, kind: str) -> float:
    """MB that predicting one image takes."""
    images = load_images(args)
    predictor = build_predictor(args, images, plan, kind)
    return measure_growth(lambda: KINDS[kind](predictor, images[0]), args.device)


def build_table(args, images, results: dict) -> dict:
    """For docs/speed.md."""
    width, height = images[0].size
    head = ["prediction", "ms an image", "of it resizing on the CPU", "naive loop / ours", "peak MB, naive / ours"]
    rows = []
    for name, result in results.items():
        ours, naive = (statistics.median(result[kind]["seconds"]) for kind in KINDS)
        peaks = " / ".join(f"{result[kind]['peak_mb']:.0f}" for kind in ("naive", "ours"))
        what = f"{args.model.upper()}, {name} of {height}x{width}, fp32"
        views = f"{1000 * statistics.median(result['view_seconds']):.1f}"
        rows.append([what, f"{1000 * ours:.1f}", views, f"{naive / ours:.2f}", peaks])
    return {"head": head, "rows": rows}


def print_table(args, images, results: dict, environment: dict) -> None:
    width, height = images[0].size
    print(
        f"{args.model}, {len(images)} images of {height}x{width}, {args.rounds} rounds, {show_environment(environment)}"
    )
    heads = ("s per image (range)", "cpu s (range)", "images/s", "peak MB", "max difference", "other class")
    print(f"{'':<24}{heads[0]:>24}{heads[1]:>24}{heads[2]:>10}{heads[3]:>9}{heads[4]:>16}{heads[5]:>13}")
    for name, result in results.items():
        for kind in KINDS:
            wall, cpu = result[kind]["seconds"], result[kind]["cpu_seconds"]
            differences = f"{result['max_difference']:>16.1e}{result['share_of_other_classes']:>13.1e}"
            print(
                f"{name + ', ' + kind:<24}{spread(wall):>24}{spread(cpu):>24}{1 / statistics.median(wall):>10.2f}"
                f"{result[kind]['peak_mb']:>9.0f}{differences if kind == 'ours' else ''}"
            )
    plain = statistics.median(results["single scale"]["ours"]["cpu_seconds"])
    for name, result in results.items():
        own, naive = (statistics.median(result[kind]["cpu_seconds"]) for kind in KINDS)
        views = 1000 * statistics.median(result["view_seconds"])
        print(f"{name}: {own / plain:.2f} x plain, naive / ours {naive / own:.2f} (cpu s); resizing {views:.1f} ms")


if __name__ == "__main__":
    main()
