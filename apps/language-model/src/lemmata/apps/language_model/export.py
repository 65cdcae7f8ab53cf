"""Export a trained model: weights as safetensors, options and tokenizer as JSON."""

from pathlib import Path

__all__ = ["export"]


def export(checkpoint: Path, *, out: Path, force: bool = False) -> Path:
    """Export a trained model to a folder that is read without this command line and without Lightning.

    The folder holds model.safetensors, config.json (the decoder's options) and tokenizer.json (which the
    tokenizers library reads). `lemmata.apps.language_model.load_model` gives decoder and tokenizer back.

    Args:
        checkpoint: A checkpoint, or a run's folder.
        out: Folder to write.
        force: Replace what the folder holds.

    Returns:
        The folder.

    Raises:
        FileExistsError: Where the folder is not empty and `force` is not given.
        FileNotFoundError: Where there is no such checkpoint.
        ValueError: Where the checkpoint cannot be read.
    """
    from safetensors.torch import save_model

    from lemmata.apps.kit.files import new_output, write_atomically, write_json
    from lemmata.apps.language_model.trained import CONFIG, TOKENIZER, WEIGHTS, TrainedModel

    model = TrainedModel.load(checkpoint)
    folder = new_output(out, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    with write_atomically(folder / WEIGHTS) as draft:
        save_model(model.decoder, str(draft))
    with write_atomically(folder / TOKENIZER) as draft:
        draft.write_text(model.tokenizer.to_json(), encoding="utf-8")
    write_json(folder / CONFIG, {"decoder": model.decoder.config.to_dict()})
    return folder
