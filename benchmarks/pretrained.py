"""Speed of a pretrained captioner compared with a plain loop over transformers' own calls, on the same model.

Run `python benchmarks/pretrained.py [--model MODEL] [--images FOLDER] [--count 24]`; the default is a BLIP of random
weights that is as wide as BLIP-base and a third as deep, and generated JPEG files of mixed sizes. `--quick` measures
less. Prints a table, then one line of JSON.

Two jobs: one image at a time, and a folder. The plain loop opens a file with Pillow, calls the processor and then
`generate` with the same maximum length; for the folder it is also measured in batches. All alternate in one process
with the same number of threads. Each figure is the median over rounds, each ratio the median of the ratios within a
round.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bench.images import COCO, SQUARE, Kind, draw_images
from bench.measuring import alternate, machine, median_ratio, seconds, show_table
from seesay.bulk import find_images
from seesay.captioners import load_captioner
from seesay.captioners.pretrained import PretrainedCaptioner
from seesay.config import DecodingOptions

BATCH = 8
PHOTO = Kind("12 megapixels", (4000, 3000), 3_500_000)
SEARCHES = {"greedy": DecodingOptions(), "beam 3": DecodingOptions(strategy="beam", length_penalty=1.0)}


def random_blip(folder: Path) -> Path:
    """Write a BLIP captioner with random weights: the width and vocabulary of BLIP-base, 4 of its 12 layers."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", *(f"word{number}" for number in range(30_519))]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), bos_token="[DEC]", eos_token="[SEP]")
    ids = {"bos_token_id": 4, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    torch.manual_seed(0)
    config = BlipConfig(
        text_config={"vocab_size": len(words), "num_hidden_layers": 4, "encoder_hidden_size": 768, **ids},
        vision_config={"num_hidden_layers": 4, "image_size": 224},
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 224, "width": 224}), tokenizer).save_pretrained(folder)
    return folder


def mixed_files(folder: Path, count: int) -> list[str]:
    """Return generated JPEG files: of COCO's size, small squares and photographs of 12 megapixels in equal parts."""
    each = -(-count // 3)
    groups = [draw_images(folder / kind.name, kind, each) for kind in (COCO, SQUARE, PHOTO)]
    return [file for files in zip(*groups, strict=True) for file in files][:count]


class PlainLoop:
    """What a user of transformers writes: open, process, generate, decode.

    Args:
        captioner: its model and processor are used, and nothing else of it.
        options: maximum length and beams.
    """

    def __init__(self, captioner: PretrainedCaptioner, options: DecodingOptions) -> None:
        self.model, self.processor = captioner.model, captioner.family.processor
        beams = {"num_beams": options.beam_size, "length_penalty": options.length_penalty}
        # One more: seesay computes the probability of the end after the longest caption too.
        self.arguments: dict[str, Any] = {"max_new_tokens": options.max_length + 1}
        self.arguments |= beams if options.strategy == "beam" else {}

    @torch.inference_mode()
    def caption(self, files: Sequence[str]) -> list[str]:
        """Return the captions of a batch."""
        images = [Image.open(file).convert("RGB") for file in files]
        inputs = self.processor(images=images, return_tensors="pt")
        texts: list[str] = self.processor.batch_decode(
            self.model.generate(**inputs, **self.arguments), skip_special_tokens=True
        )
        return texts

    def caption_folder(self, files: Sequence[str], batch: int) -> list[str]:
        """Return the captions of files, in batches."""
        return [text for at in range(0, len(files), batch) for text in self.caption(files[at : at + batch])]


def ours(captioner: PretrainedCaptioner, files: Sequence[str], options: DecodingOptions) -> list[str]:
    """Return the captions of files by the loop of `seesay caption`."""
    found = captioner.caption_each(files, options, batch_size=BATCH, guard=False)
    return [caption.text for _, caption in found]  # type: ignore[union-attr]


def measure(
    captioner: PretrainedCaptioner, files: Sequence[str], options: DecodingOptions, rounds: int
) -> dict[str, Any]:
    """Return images per second of every variant, and the ratios to the plain loop."""
    plain, few = PlainLoop(captioner, options), list(files[:6])

    def rate(work: Callable[[], object], images: int) -> Callable[[], float]:
        return lambda: images / seconds(work)

    found = alternate(
        {
            "one: plain": rate(lambda: plain.caption_folder(few, 1), len(few)),
            "one: seesay": rate(lambda: [captioner.caption(file, options, guard=False) for file in few], len(few)),
            "folder: plain": rate(lambda: plain.caption_folder(files, 1), len(files)),
            "folder: plain, batches": rate(lambda: plain.caption_folder(files, BATCH), len(files)),
            "folder: seesay": rate(lambda: ours(captioner, files, options), len(files)),
        },
        rounds,
    )
    result: dict[str, Any] = {name: round(statistics.median(rates), 3) for name, rates in found.items()}
    for name, base in (("one", "one: plain"), ("folder", "folder: plain"), ("folder", "folder: plain, batches")):
        result[f"{name}: seesay over {base.partition(': ')[2]}"] = round(
            median_ratio(found[f"{name}: seesay"], found[base]), 2
        )
    texts = [plain.caption(few[:1])[0], captioner.caption(few[0], options, guard=False).text]
    result["equal captions"] = texts[0].startswith(texts[1])
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="model of the hub or folder (default: random BLIP)")
    parser.add_argument("--images", type=Path, help="folder of images (default: generated)")
    parser.add_argument("--count", type=int, default=24, help="images of the folder job")
    parser.add_argument("--length", type=int, default=16, help="maximum number of tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of six images")
    flags = parser.parse_args()
    count, rounds = (6, 1) if flags.quick else (flags.count, flags.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        model = flags.model or str(random_blip(Path(scratch)))
        captioner = load_captioner(model)
        assert isinstance(captioner, PretrainedCaptioner)
        files = (
            list(find_images([str(flags.images)]).images[:count])
            if flags.images
            else mixed_files(Path(scratch) / "images", count)
        )
        results = {
            name: measure(captioner, files, options.replace(max_length=flags.length), rounds)
            for name, options in SEARCHES.items()
        }
    rows = [[name, *(str(found[name]) for found in results.values())] for name in next(iter(results.values()))]
    show_table(["images/s", *results], rows)
    print(json.dumps({**machine(), "images": count, "rounds": rounds, **results}))


if __name__ == "__main__":
    main()
