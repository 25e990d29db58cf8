"""Which run writes which document: a name has one source, and a document one writer at a time.

Names are given out under the lock of OUT, held for a moment; the lock of the document is held until
it is finished. So any number of runs, on any number of machines, share one OUT as far as its file
system has locks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from filelock import BaseFileLock

from vllm_dsocr.pipeline.files import InUse, locked, take_lock
from vllm_dsocr.pipeline.inputs import InputFile, is_taken, own_name
from vllm_dsocr.pipeline.store import DocumentFolder

WAIT_SECONDS = 60.0  # for other runs that are being given names


@dataclass(frozen=True, slots=True)
class Claim:
    """A document that no other run writes to: the file under the name it got, and its folder."""

    file: InputFile
    folder: DocumentFolder
    lock: BaseFileLock

    def release(self) -> None:
        """Lets others write to it."""
        self.lock.release()


def claim(out: Path, file: InputFile, sha256: str) -> Claim:
    """The document of a file with that content, ready to be written to.

    Its name is the file's, or where that belongs to another source, one of its own. Raises InUse
    while another run has it, CannotWrite for OUT, OSError for the document.
    """
    with locked(out, WAIT_SECONDS):
        for name in (file.name, own_name(file.name, file.identity)):
            folder = DocumentFolder(out / name)
            source = folder.source
            if is_taken(folder.path):
                continue
            if source not in (None, file.identity) and folder.sha256 != sha256:
                continue
            lock = take_lock(folder.path)
            if lock is not None:
                return _prepared(Claim(replace(file, name=name), folder, lock), sha256)
            if source == file.identity:
                break
    raise InUse(f"another run is writing {file.name}")


def _prepared(claim: Claim, sha256: str) -> Claim:
    try:
        claim.folder.prepare(claim.file.identity, sha256)
    except BaseException:
        claim.release()
        raise
    return claim
