"""A text as shuffled windows of tokens for training, and windows in order for validation and tests."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from lemmata.apps.kit.files import read_json, write_atomically, write_json
from lemmata.apps.kit.loading import ResumableLoader
from lemmata.apps.language_model.text import check_source, read_text
from lemmata.apps.language_model.tokenizers import Tokenizer, tokenizer_from_json, train_tokenizer
from lemmata.apps.language_model.tokens import Tokens, Windows, read_tokens, split_text, write_tokens

__all__ = ["TextDataModule"]

logger = logging.getLogger(__name__)

FACTS = "text.json"


class TextDataModule(LightningDataModule):
    """A text for training, validation and tests.

    The beginning of the text is trained on and its end is validated on. A tokenizer is learned from the
    training text alone. Tokens go to memory-mapped files in the run's folder; a resumed run finds them there.
    The order of windows is a function of `seed` and the epoch alone, so that a resumed run continues where it
    stopped, and W processes with batches of b see what one process with batches of W b sees.

    Args:
        source: The text: a UTF-8 file, a folder of .txt files, `docstrings` for text that comes with Python,
            or the published `tinyshakespeare`.
        tokenizer: `character` or `bpe`.
        vocabulary: Number of tokens of `bpe`, from 256 to 65535.
        val: Fraction of the text's end to validate on, or another text for that.
        test: Text for tests; none where null.
        context: Tokens that the model reads at once.
        batch_size: Windows in a batch of each process.
        stride: Tokens from the start of a training window to the next one's; `context` where null.
        val_windows: At most this many validation windows, evenly spread over the text; all where null.
        seed: Seed of the order of windows.
        num_workers: Processes that read windows; files are mapped into memory, so none is usually quickest.
        folder: Where token files go; the folder `data` of the run where null.

    Raises:
        FileNotFoundError: Where a text does not exist.
        ValueError: Where a number is out of range or a name unknown.
    """

    def __init__(
        self,
        source: str = "docstrings",
        tokenizer: str = "character",
        vocabulary: int = 1024,
        val: float | str = 0.1,
        test: str | None = None,
        context: int = 64,
        batch_size: int = 16,
        stride: int | None = None,
        val_windows: int | None = 512,
        seed: int = 0,
        num_workers: int = 0,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        if tokenizer not in {"character", "bpe"}:
            raise ValueError(
                f"`data.tokenizer` (={tokenizer!r}) is not known; expected one of character, bpe"
            )
        for option, value, low in (
            ("context", context, 1),
            ("batch_size", batch_size, 1),
            ("stride", stride, 1),
            ("val_windows", val_windows, 1),
            ("seed", seed, 0),
            ("num_workers", num_workers, 0),
        ):
            if value is not None and value < low:
                raise ValueError(f"`data.{option}` (={value}) must be an integer of at least {low}")
        if isinstance(val, float | int) and not 0 < val < 1:
            raise ValueError(f"`data.val` (={val}) must be a text, or a fraction between 0 and 1")
        for option, text in (("source", source), ("val", val), ("test", test)):
            if isinstance(text, str):
                check_source(text, f"data.{option}")
        self.source = source
        self.kind = tokenizer
        self.vocabulary = vocabulary
        self.val = val
        self.test = test
        self.context = context
        self.batch_size = batch_size
        self.stride = stride
        self.val_windows = val_windows
        self.seed = seed
        self.num_workers = num_workers
        self.folder = folder
        self.tokenizer: Tokenizer | None = None
        self.facts: dict[str, Any] = {}
        self._tokens: dict[str, Tokens] = {}
        self._texts: dict[str, str] = {}

    def prepare_data(self) -> None:
        """Tokenise the training text, in one process; token files of the same text are left as they are.

        Raises:
            ValueError: Where a text cannot be read, or is too short.
        """
        if self.trainer is not None and not self.trainer.training:
            return  # an evaluation has the checkpoint's tokenizer, and writes nothing
        folder = self._folder()
        texts = self._training_texts()
        facts = {
            "tokenizer": self.kind,
            "vocabulary": self.vocabulary if self.kind == "bpe" else None,
            **{role: hashlib.sha256(text.encode()).hexdigest() for role, text in texts.items()},
        }
        if (folder / FACTS).is_file() and read_json(folder / FACTS).get("made_from") == facts:
            return
        tokenizer = train_tokenizer(self.kind, texts["train"], vocabulary=self.vocabulary)
        tokens = {role: tokenizer.encode(text) for role, text in texts.items()}
        for role, numbers in tokens.items():
            self._windows(role, numbers)  # too short a text is told before anything is written
        for role, numbers in tokens.items():
            write_tokens(folder / f"{role}.npy", numbers)
        with write_atomically(folder / "tokenizer.json") as draft:
            draft.write_text(tokenizer.to_json(), encoding="utf-8")
        # Written last: where it is, the rest is complete.
        write_json(
            folder / FACTS,
            {
                "source": str(self.source),
                "made_from": facts,
                "fingerprint": hashlib.sha256(tokens["train"].tobytes()).hexdigest(),
                "tokens": {role: len(numbers) for role, numbers in tokens.items()},
                "characters": {role: len(text) for role, text in texts.items()},
                "unknown": tokenizer.unknown(texts["val"]),
            },
        )

    def setup(self, stage: str) -> None:
        """Map the token files, or read the text of an evaluation.

        Args:
            stage: `"fit"`, `"validate"` or `"test"`.

        Raises:
            ValueError: Where a text is missing, cannot be read, or is too short.
        """
        if stage == "fit":
            folder = self._folder()
            self.facts = read_json(folder / FACTS)
            self.tokenizer = tokenizer_from_json((folder / "tokenizer.json").read_text(encoding="utf-8"))
            for role in ("train", "val"):
                self._tokens[role] = read_tokens(folder / f"{role}.npy")
            if unknown := self.facts["unknown"]:
                logger.info("the validation text has characters the training text lacks: %s", unknown)
        elif stage == "validate" and "val" not in self._tokens:
            self._texts["val"] = self._training_texts()["val"]
        elif stage == "test":
            if self.test is None:
                raise ValueError("`data.test` is missing; expected a text, as for `data.source`")
            self._texts["test"] = read_text(self.test, "data.test")

    def use(self, tokenizer: Tokenizer, context: int) -> None:
        """Evaluate with a checkpoint's tokenizer and context.

        Args:
            tokenizer: The tokenizer that the model was trained with.
            context: Tokens that the model reads at once.
        """
        self.tokenizer, self.context = tokenizer, context
        for role, text in self._texts.items():
            self._tokens[role] = tokenizer.encode(text)
        self.facts["characters"] = {role: len(text) for role, text in self._texts.items()}

    def tokens_per_character(self, role: str) -> float:
        """Return how many tokens a character of a text takes on average.

        Args:
            role: `"train"`, `"val"` or `"test"`.
        """
        return len(self._tokens[role]) / float(self.facts["characters"][role])

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled training batches of one size, of which each process has its share."""
        windows = self._windows("train", self._tokens["train"])
        try:
            return ResumableLoader(
                windows,
                self.batch_size,
                seed=self.seed,
                shuffle=True,
                drop_last=True,
                num_workers=self.num_workers,
                persistent_workers=self.num_workers > 0,
            )
        except ValueError as error:
            raise ValueError(
                f"`data.batch_size` (={self.batch_size}) is more than each process has of the "
                f"{len(windows)} windows of the training text; use a longer text or a smaller batch"
            ) from error

    def val_dataloader(self) -> ResumableLoader:
        """Return validation batches in order; every process sees all of them."""
        return self._in_order("val")

    def test_dataloader(self) -> ResumableLoader:
        """Return test batches in order; every process sees all of them."""
        return self._in_order("test")

    def _in_order(self, role: str) -> ResumableLoader:
        """Return a role's batches in order."""
        if role not in self._tokens:
            raise ValueError("`ckpt_path` is missing; an evaluation needs a checkpoint, and its tokenizer")
        windows = self._windows(role, self._tokens[role])
        return ResumableLoader(windows, 4 * self.batch_size, shuffle=False, num_replicas=1, rank=0)

    def _windows(self, role: str, tokens: Tokens) -> Windows:
        """Return the windows of a role."""
        name = {"train": "the training text", "val": "the validation text", "test": "the test text"}[role]
        source = self.val if role == "val" and isinstance(self.val, str) else self.source
        return Windows(
            tokens,
            self.context,
            stride=self.stride if role == "train" else None,
            most=self.val_windows if role == "val" else None,
            name=f"{name} of {self.test if role == 'test' else source!r}",
        )

    def _training_texts(self) -> dict[str, str]:
        """Return the texts of training and validation."""
        text = read_text(self.source)
        if isinstance(self.val, str):
            return {"train": text, "val": read_text(self.val, "data.val")}
        beginning, end = split_text(text, self.val)
        return {"train": beginning, "val": end}

    def _folder(self) -> Path:
        """Return where token files are."""
        if self.folder is not None:
            return Path(self.folder)
        if self.trainer is None:
            raise ValueError("`data.folder` is missing; without a run, token files need a folder")
        return Path(self.trainer.default_root_dir) / "data"
