"""The configuration: `schema` defines every option, `loading` resolves and saves it, `presets/` holds the systems.

`flags` derives the flags of the command line, and `seesay.serving.requests` the HTTP fields, from the same schema.
"""

from seesay.config.loading import (
    changed_decoding,
    locate,
    preset_description,
    preset_names,
    preset_values,
    read_yaml,
    replace,
    resolve_config,
    save_config,
    to_dict,
)
from seesay.config.schema import (
    Config,
    DataConfig,
    DecodingOptions,
    EncoderConfig,
    FinetuningConfig,
    ModelConfig,
    TextConfig,
    TrainingConfig,
    field_paths,
    unread_fields,
)

__all__ = [
    "Config",
    "DataConfig",
    "DecodingOptions",
    "EncoderConfig",
    "FinetuningConfig",
    "ModelConfig",
    "TextConfig",
    "TrainingConfig",
    "changed_decoding",
    "field_paths",
    "locate",
    "preset_description",
    "preset_names",
    "preset_values",
    "read_yaml",
    "replace",
    "resolve_config",
    "save_config",
    "to_dict",
    "unread_fields",
]
