"""Tiny randomly initialised models of every family, saved as folders in the format of the hub."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WORDS = "a the red green blue dog cat man woman bird on in of and with two big small runs sits caption photo image"
SIDE = 32
"""Side of the images that the models take, in pixels."""
MEANS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def bert_tokenizer(folder: Path) -> Any:
    """Return a tokenizer of whole words."""
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS.split(), "##s", "##ing"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    return BertTokenizerFast(str(folder / "vocab.txt"), bos_token="[DEC]", eos_token="[SEP]")


def byte_tokenizer(*special: str, kind: str = "PreTrainedTokenizer", **named: str) -> Any:
    """Return a tokenizer of byte pairs.

    Args:
        special: further special tokens.
        kind: class that processors of transformers 4 require.
        named: special tokens that are attributes of the tokenizer.
    """
    import transformers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=160,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>", *special, *named.values()],
        initial_alphabet=[*string.ascii_letters, ".", ",", ":", "Ġ"],  # Ġ is a space
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {WORDS} {word}" for word in WORDS.split()] * 3, trainer)
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    build = transformers.PreTrainedTokenizerFast
    if transformers.__version__.startswith("4."):
        build = getattr(transformers, f"{kind}Fast")
    return build(
        tokenizer_object=tokenizer,
        **names,
        extra_special_tokens=named,
        model_input_names=["input_ids", "attention_mask"],
    )


def seeded(build: Callable[[], Any]) -> Any:
    """Return a model in evaluation mode, with weights large enough that captions depend on the image."""
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                is_embedding = "patch" not in name and any(part in name for part in ("embed", "query_tokens", "wte"))
                weight.normal_(0, 0.05 if is_embedding else 0.3)
    return model


def text_sizes(tokenizer: Any) -> dict[str, Any]:
    """Return the configuration of a small decoder."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 8,
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}User: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %} Assistant:"
)


def blip(folder: Path) -> None:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    tokenizer = bert_tokenizer(folder)
    text = {
        **text_sizes(tokenizer),
        "encoder_hidden_size": 32,
        "projection_dim": 16,
        "max_position_embeddings": 64,
        "sep_token_id": tokenizer.sep_token_id,
    }
    config = BlipConfig(text_config=text, vision_config=VISION, projection_dim=16, image_text_hidden_size=16)
    seeded(lambda: BlipForConditionalGeneration(config)).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": SIDE, "width": SIDE}, **MEANS)
    BlipProcessor(images, tokenizer).save_pretrained(folder)


def git(folder: Path) -> None:
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    tokenizer = bert_tokenizer(folder)
    sizes = {**text_sizes(tokenizer), "bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    config = GitConfig(vision_config=VISION, max_position_embeddings=64, **sizes)
    seeded(lambda: GitForCausalLM(config)).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, **MEANS)
    GitProcessor(images, tokenizer).save_pretrained(folder)


def vision_encoder_decoder(folder: Path) -> None:
    from transformers import (
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
    )

    tokenizer = byte_tokenizer()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    decoder = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64, **ids)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**VISION), decoder)
    config.decoder_start_token_id, config.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
    model = seeded(lambda: VisionEncoderDecoderModel(config))
    model.generation_config.decoder_start_token_id = tokenizer.bos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}, **MEANS).save_pretrained(folder)


def florence2(folder: Path) -> None:
    from transformers import (
        BartConfig,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    tokenizer = byte_tokenizer(kind="BartTokenizer", image_token="<image>")
    vision = {
        "depths": (1, 1),
        "patch_size": (7, 3),
        "patch_stride": (4, 2),
        "patch_padding": (3, 1),
        "patch_prenorm": (False, True),
        "embed_dim": (16, 32),
        "num_heads": (2, 4),
        "num_groups": (2, 4),
        "window_size": 4,
        "projection_dim": 32,
        "drop_path_rate": 0.0,
    }
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids |= {"pad_token_id": tokenizer.pad_token_id, "decoder_start_token_id": tokenizer.eos_token_id}
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=128,
        **ids,
    )
    config = Florence2Config(
        text_config=text.to_dict(), vision_config=vision, image_token_id=tokenizer.image_token_id, **ids
    )
    model = seeded(lambda: Florence2ForConditionalGeneration(config))
    generation = model.generation_config
    for name, value in ids.items():
        setattr(generation, name, value)
    # As in the published models.
    generation.forced_bos_token_id, generation.forced_eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    generation.num_beams, generation.no_repeat_ngram_size, generation.early_stopping = 3, 3, True
    model.save_pretrained(folder)
    images = CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_center_crop=False, **MEANS
    )
    images.image_seq_length = 17
    Florence2Processor(images, tokenizer).save_pretrained(folder)


def _qformer(tokenizer: Any) -> dict[str, Any]:
    return {**text_sizes(tokenizer), "encoder_hidden_size": 32, "max_position_embeddings": 64}


def blip2(folder: Path) -> None:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

    tokenizer = byte_tokenizer("<image>")
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=_qformer(tokenizer),
        text_config={"model_type": "opt", **text_sizes(tokenizer), "ffn_dim": 48, "word_embed_proj_dim": 32},
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    seeded(lambda: Blip2ForConditionalGeneration(config)).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": SIDE, "width": SIDE}, **MEANS)
    Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(folder)


def instructblip(folder: Path) -> None:
    from transformers import (
        BlipImageProcessor,
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
    )

    tokenizer, questions = byte_tokenizer("<image>"), bert_tokenizer(folder / "qformer_tokenizer")
    config = InstructBlipConfig(
        vision_config=VISION,
        qformer_config=_qformer(questions),
        text_config={"model_type": "llama", **text_sizes(tokenizer)},
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    seeded(lambda: InstructBlipForConditionalGeneration(config)).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": SIDE, "width": SIDE}, **MEANS)
    InstructBlipProcessor(images, tokenizer, questions, num_query_tokens=4).save_pretrained(folder)


def paligemma(folder: Path) -> None:
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
    )

    tokenizer = byte_tokenizer(kind="GemmaTokenizer", image_token="<image>")
    images = SiglipImageProcessor(size={"height": SIDE, "width": SIDE}, **MEANS)
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, tokenizer)  # adds tokens of locations
    text = {"model_type": "gemma", **text_sizes(tokenizer)}
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "projection_dim": 32, "vision_use_head": False},
        text_config=text,
        projection_dim=32,
        image_token_index=tokenizer.image_token_id,
        hidden_size=32,
        **{name: text[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    seeded(lambda: PaliGemmaForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)


def llava(folder: Path) -> None:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = byte_tokenizer(image_token="<image>")
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "projection_dim": 32},
        text_config={"model_type": "llama", **text_sizes(tokenizer)},
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
    )
    seeded(lambda: LlavaForConditionalGeneration(config)).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, **MEANS)
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)


def qwen2_5_vl(folder: Path) -> None:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    special = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = byte_tokenizer(*special, kind="Qwen2Tokenizer")
    first, end, image, video = tokenizer.convert_tokens_to_ids(list(special))
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**text_sizes(tokenizer), "rope_scaling": rope, "rope_parameters": rope, "max_position_embeddings": 256}
    text.pop("head_dim")
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 4,
        "intermediate_size": 48,
        "patch_size": 4,
        "out_hidden_size": 32,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=first,
        vision_end_token_id=end,
    )
    model = seeded(lambda: Qwen2_5_VLForConditionalGeneration(config))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    sizes = {"patch_size": 4, "merge_size": 2, "min_pixels": 16 * 16, "max_pixels": 48 * 48}
    template = CHAT_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**sizes), tokenizer, Qwen2VLVideoProcessor(**sizes), chat_template=template
    ).save_pretrained(folder)


def smolvlm(folder: Path) -> None:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor, Idefics3Processor

    named = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    tokenizer = byte_tokenizer(**named)
    config = Idefics3Config(
        vision_config=VISION,
        text_config={"model_type": "llama", **text_sizes(tokenizer)},
        image_token_id=tokenizer.image_token_id,
        scale_factor=2,
    )
    seeded(lambda: Idefics3ForConditionalGeneration(config)).save_pretrained(folder)
    images = Idefics3ImageProcessor(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, **MEANS)
    Idefics3Processor(
        images, tokenizer, image_seq_len=4, chat_template=CHAT_TEMPLATE.replace("IMAGE", "<image>")
    ).save_pretrained(folder)


def gemma3(folder: Path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = byte_tokenizer(kind="GemmaTokenizer", **named)
    text = {**text_sizes(tokenizer), "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        text_config={"model_type": "gemma3_text", **text},
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    model = seeded(lambda: Gemma3ForConditionalGeneration(config))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    images = Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE}, **MEANS)
    template = CHAT_TEMPLATE.replace("IMAGE", "<start_of_image>")
    Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=4).save_pretrained(folder)


def internvl(folder: Path) -> None:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    named = {
        "context_image_token": "<IMG_CONTEXT>",
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "video_token": "<video>",
    }
    tokenizer = byte_tokenizer(kind="Qwen2Tokenizer", **named)
    config = InternVLConfig(
        vision_config={**VISION, "image_size": [SIDE, SIDE], "patch_size": [8, 8]},
        text_config={"model_type": "qwen2", **text_sizes(tokenizer)},
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
    )
    seeded(lambda: InternVLForConditionalGeneration(config)).save_pretrained(folder)
    sizes = {"size": {"height": SIDE, "width": SIDE}, **MEANS}
    InternVLProcessor(
        GotOcr2ImageProcessor(crop_to_patches=True, min_patches=1, max_patches=3, **sizes),
        tokenizer,
        InternVLVideoProcessor(**sizes),
        image_seq_length=4,
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>"),
    ).save_pretrained(folder)


FAMILIES: dict[str, Callable[[Path], None]] = {
    build.__name__: build
    for build in (
        blip,
        blip2,
        instructblip,
        git,
        vision_encoder_decoder,
        florence2,
        paligemma,
        llava,
        qwen2_5_vl,
        smolvlm,
        gemma3,
        internvl,
    )
}
