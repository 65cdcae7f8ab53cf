"""Tell how well a trained model predicts a text: loss, bits a character, perplexity, and the same by line."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lemmata.apps.language_model.trained import TrainedModel
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    TrainedModel = "lemmata.apps.language_model.trained.TrainedModel"

__all__ = ["Score", "predict", "token_losses"]

# Tokens that are scored at once, which bounds memory.
TOKENS_AT_ONCE = 2**14


@dataclass(frozen=True)
class Score:
    """How well a model predicts a text.

    Args:
        tokens: Number of tokens predicted: all but the first.
        characters: Number of characters that these tokens stand for.
        nats: Their summed loss.
    """

    tokens: int
    characters: int
    nats: float

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def bits_per_character(self) -> float:
        """Bits a character, which does not depend on the tokenizer."""
        return self.nats / math.log(2) / self.characters

    @property
    def perplexity(self) -> float:
        """Among how many equally likely tokens the model is as unsure as it is."""
        return math.exp(self.loss)


def predict(
    checkpoint: Path, file: Path, *, lines: Path | None = None, device: str = "cpu", force: bool = False
) -> Score:
    """Tell how well a trained model predicts a text, and print it.

    Every token but the first is predicted from at least half a context before it, or from the whole text
    before it.

    Args:
        checkpoint: A checkpoint, a run's folder, or a folder that export wrote.
        file: A UTF-8 file, or a folder of .txt files.
        lines: CSV file to write: loss and bits a character of each line; none where not given.
        device: Where to compute, say cuda.
        force: Replace the CSV file.

    Returns:
        The score of the whole text.

    Raises:
        FileExistsError: Where the CSV file exists and `force` is not given.
        FileNotFoundError: Where checkpoint or text do not exist.
        ValueError: Where either cannot be read, or the text has fewer than two tokens.
    """
    from lemmata.apps.kit.files import new_output, write_atomically
    from lemmata.apps.kit.tables import Table
    from lemmata.apps.language_model.text import read_text
    from lemmata.apps.language_model.trained import TrainedModel as Model

    if lines is not None and lines.exists() and not force:
        raise FileExistsError(f"{lines} exists already; pass --force to replace it")
    text = read_text(file, "file")
    model = Model.load(checkpoint, device=device)
    losses = token_losses(model, text)
    starts = model.tokenizer.starts(text)
    score = Score(len(losses), len(text) - int(starts[1]), float(losses.sum()))
    row: dict[str, Any] = {
        "tokens": score.tokens,
        "loss (nats/token)": score.loss,
        "bits/character": score.bits_per_character,
        "perplexity": score.perplexity,
    }
    if unknown := model.tokenizer.unknown(text):
        row["unknown characters"] = unknown
    Table.from_records([row]).print()
    if lines is not None:
        table = _by_line(text, losses, starts)
        with write_atomically(new_output(lines, force=force)) as draft:
            draft.write_text(table.to_csv(), encoding="utf-8")
    return score


def token_losses(model: "TrainedModel", text: str) -> "npt.NDArray[np.float64]":
    """Return the loss of every token but the first.

    Args:
        model: A trained model.
        text: The text.

    Returns:
        Losses in nats, `(tokens - 1,)`.

    Raises:
        ValueError: Where the text has fewer than two tokens.
    """
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    tokens = torch.as_tensor(model.tokenizer.encode(text).astype(np.int64))
    if len(tokens) < 2:
        raise ValueError(f"the text has {len(tokens)} tokens; expected at least 2")
    context = min(model.decoder.config.context, len(tokens) - 1)
    step = max(1, context // 2)
    # The last window is moved back so that all are of one length.
    starts = [*range(0, len(tokens) - 1 - context, step), len(tokens) - 1 - context]
    device = next(model.decoder.parameters()).device
    losses = np.full(len(tokens) - 1, np.nan)
    many = max(1, TOKENS_AT_ONCE // context)
    with torch.no_grad():
        for first in range(0, len(starts), many):
            chunk = starts[first : first + many]
            windows = torch.stack([tokens[start : start + context + 1] for start in chunk]).to(device)
            logits = model.decoder(windows[:, :-1]).double()
            scores = cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none").cpu().numpy()
            for start, row in zip(chunk, scores, strict=True):
                # What an earlier window has scored had less before it in this one.
                new = np.isnan(losses[start : start + context])
                losses[start : start + context][new] = row[new]
    return losses


def _by_line(text: str, losses: "npt.NDArray[np.float64]", starts: "npt.NDArray[np.int64]") -> Any:
    """Return loss and bits a character of each line; a token belongs to the line it starts in."""
    import numpy as np

    from lemmata.apps.kit.tables import Table

    lines = text.splitlines(keepends=True)
    begins = np.cumsum([0, *map(len, lines[:-1])])
    line_of = np.searchsorted(begins, starts, side="right") - 1
    lengths = np.diff(starts, append=len(text))
    rows = []
    for number, line in enumerate(lines):
        mine = line_of[1:] == number
        nats, characters = float(losses[mine].sum()), int(lengths[1:][mine].sum())
        count = int(mine.sum())
        rows.append(
            [
                number + 1,
                count,
                nats / count if count else None,
                nats / math.log(2) / characters if characters else None,
                line.rstrip("\n"),
            ]
        )
    return Table(["line", "tokens", "loss", "bits_per_character", "text"], rows)
