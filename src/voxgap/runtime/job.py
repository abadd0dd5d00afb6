"""Predicting many files: rows are kept as they come, what fails is a row too, and a killed job goes on."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from voxgap import acquire, io
from voxgap.doubts import gathered
from voxgap.errors import VoxgapError
from voxgap.files import check_new, replacing
from voxgap.grid import Sample
from voxgap.promises import Promise
from voxgap.resample import Record
from voxgap.runtime import ended, maps, streaming
from voxgap.runtime.answer import Answer
from voxgap.runtime.ended import BETWEEN, LOOKS, STAMP
from voxgap.runtime.ended import Done as Done
from voxgap.runtime.inputs import Item
from voxgap.runtime.predictor import OUTSIDE, Predictor
from voxgap.runtime.tables import OF_TABLES, WRITERS
from voxgap.runtime.tables import Row as Row
from voxgap.runtime.tables import write_csv as write_csv
from voxgap.volume import Volume

FORMATS = tuple(WRITERS)
_READERS = 2


@dataclass(frozen=True)
class Wanted:
    """What a row holds beside the answer itself.

    Args:
        top_k: how many of the most probable classes to name in columns of their own.
        calibrated: whether the calibrated probabilities stand beside the network's own.
        maps: folder for the label maps of a segmentation.
        outside: what stands in them where the network saw nothing.
        overwrite: whether label maps that are there already are replaced.
        axes, at: what is said of the axes of the files; see `Predictor.read`.
        draws, seed: of the fill, see `Predictor.predict`.
        advise: whether it says which missing channel to acquire next.
    """

    top_k: int = 0
    calibrated: bool = False
    maps: str | None = None
    outside: int = OUTSIDE
    overwrite: bool = False
    axes: tuple[str | int, ...] = ()
    at: dict[str, int] = field(default_factory=dict)
    draws: int | None = None
    seed: int = 0
    advise: bool = False


Source = Callable[[Sequence[Item]], Iterator[Row]]
"""Answers items in any order, one row each."""
Tell = Callable[[str, int, int], None]
"""Called with an item, how many planes of its label map are drawn, and how many there are."""


def untold(item: str, done: int, planes: int) -> None:
    """Tell nobody."""


def run(source: Source, items: Sequence[Item], out: Path, columns: Sequence[str], key: Row) -> Done:
    """Answer items into a table that appears whole; started again after a kill, only what is missing is answered.

    Rows are kept in a journal beside the table, `.NAME.journal`, until all are there.

    Args:
        source: answers items.
        items: all of the job's.
        out: `.csv`, `.json`, `.jsonl` or `.parquet`.
        columns: of the table, in this order.
        key: what rows depend on beside the items, such as the model; a journal of another key begins anew.

    Raises:
        VoxgapError: the suffix is unknown.
    """
    if out.suffix.lower() not in FORMATS:
        raise VoxgapError(f"{out}: write predictions to one of {', '.join(FORMATS)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    journal = _journal(out)
    known, stamps = _recover(journal, key), ended.stamps(items, out, key)
    with gathered() as said, journal.open("a", encoding="utf-8") as stream:
        if stream.tell() == 0:
            _put(stream, ended.resolved(key))
        for row in source([item for item in items if item.name not in known]):
            _put(stream, row | {STAMP: stamps.get(str(row["path"]))})
    done = _finish(journal, items, out, columns)
    done.said = said
    ended.note(out, items, key, done, stamps)
    journal.unlink()
    return done


def check_free(out: Path, items: Sequence[Item], wanted: Wanted, key: Row, changed: str = "") -> None:
    """Refuse a job that would replace what another one, or a person, has written; an unfinished one goes on.

    One of which an input that it has answered is no longer the same is unfinished no more.

    Args:
        out, items, key: as for `run`.
        wanted: whether it may, and where the label maps go.
        changed: why what the same job wrote is no longer what it would write, see `voxgap.runtime.ended.Ended`.

    Raises:
        VoxgapError: the table, a label map, or the rows of an unfinished job of another key are there.
    """
    journal = _journal(out)
    if _is_of(journal, key):
        now = ended.stamps(items, out, key)
        rows = itertools.islice(_lines(journal), 1, None)
        answered = {str(row["path"]): row.get(STAMP) for row in rows}
        others = [(name, any(now[name])) for name in now.keys() & answered if now[name] != answered[name]]
        if not others:
            return
        if not wanted.overwrite:
            raise VoxgapError(
                f"{ended.said_of(sorted(others), journal)}: choose another place, or pass --overwrite"
            )
        journal.unlink()
    if wanted.overwrite:
        return
    try:
        check_new([out, *(Path(wanted.maps) / item.label_map for item in items if wanted.maps is not None)])
    except VoxgapError as error:
        raise VoxgapError(f"{changed}; {error}" if changed else str(error)) from None
    if journal.exists():
        raise VoxgapError(
            f"{out}: a job of another bundle, or with other options, was stopped there: finish it, choose another "
            "place, or pass --overwrite"
        )


def answered(out: Path, key: Row) -> set[str]:
    """Return the names of the items that an unfinished job has answered already."""
    return _recover(_journal(out), key)


def local(predictor: Predictor, wanted: Wanted, tell: Tell = untold) -> Source:
    """Return a source that reads files on threads of this machine while the network computes.

    `tell` is told of the planes of a label map that are drawn, see `Tell`.
    """

    def rows(items: Sequence[Item]) -> Iterator[Row]:
        with ThreadPoolExecutor(_READERS) as readers:
            for batch in _batched(_ahead(readers, predictor, items, wanted), predictor.batch_size):
                yield from _answer(predictor, batch, wanted, tell)

    return rows


def columns_of(predictor: Predictor, wanted: Wanted, items: Sequence[Item] = ()) -> list[str]:
    """Return the columns of the table, in their order; whose an item is, where one says so."""
    columns = ["path", "group"] if any(item.group for item in items) else ["path"]
    if predictor.task == "classification":
        columns += ["class", *(f"p_{name}" for name in predictor.classes)]
        columns += [f"calibrated_{name}" for name in predictor.classes] if wanted.calibrated else []
        columns += [f"{kind}_{i}" for i in range(1, wanted.top_k + 1) for kind in ("top", "p_top")]
    elif predictor.task == "segmentation":
        columns += ["label_map", *(f"{of}_{name}" for of in ("voxels", "ml") for name in predictor.classes)]
    else:
        columns += _value_names(predictor.manifest.outputs)
    if wanted.draws is not None:
        columns += _deviations(predictor)
    elif predictor.manifest.guarantee is not None:
        columns += [*_promised_names(predictor), "guarantee"]
    columns += acquire.COLUMNS if wanted.advise else ()
    columns += ["missing_rate", "windows"]
    columns += ["precision", "difference"] if predictor.running.precision != "float32" else []
    columns += ["case"] if any(item.case for item in items) else []
    return [*columns, "warnings", "error"]


def row_of(predictor: Predictor, name: str, answer: Answer, wanted: Wanted) -> Row:
    """Return one line of the table, as plain values."""
    row: Row = {"path": name}
    if predictor.task == "classification":
        row |= {"class": answer.label}
        row |= {f"p_{c}": float(p) for c, p in zip(predictor.classes, answer.values, strict=True)}
        if wanted.calibrated and answer.calibrated is not None:
            row |= {
                f"calibrated_{c}": float(p) for c, p in zip(predictor.classes, answer.calibrated, strict=True)
            }
        for i, (label, p) in enumerate(answer.top[: wanted.top_k], 1):
            row |= {f"top_{i}": label, f"p_top_{i}": p}
    elif predictor.task == "regression":
        names = _value_names(len(answer.values))
        row |= {name: float(value) for name, value in zip(names, answer.values, strict=True)}
    if answer.promise is not None:
        row |= _promised(predictor, answer.promise)
    if wanted.advise and answer.advice is not None:
        row |= answer.advice.row()
    if answer.fill_deviation is not None and predictor.task != "segmentation":
        row |= dict(zip(_deviations(predictor), map(float, answer.fill_deviation), strict=True))
    row |= {
        "missing_rate": answer.missing_rate,
        "windows": answer.windows,
        "warnings": BETWEEN.join(answer.drift),
    }
    if answer.looks is not None:
        row[LOOKS] = dict(answer.looks)
    if answer.precision != "float32":
        row |= {"precision": answer.precision, "difference": answer.difference}
    return row


def _value_names(count: int, name: str = "value") -> list[str]:
    return [name] if count == 1 else [f"{name}_{i}" for i in range(count)]


def _promised_names(predictor: Predictor) -> list[str]:
    """Return the columns of what is guaranteed."""
    if predictor.task == "classification":
        return [f"set_{name}" for name in predictor.classes]
    if predictor.task == "segmentation":
        return [f"region_{name}" for name in predictor.classes[1:]]
    outputs = predictor.manifest.outputs
    return [
        name
        for pair in zip(*(_value_names(outputs, end) for end in ("low", "high")), strict=True)
        for name in pair
    ]


def _promised(predictor: Predictor, promise: Promise) -> Row:
    """Return what is guaranteed, in its columns: whether each class is in the set, bounds, or voxels of each region."""
    row: Row = {"guarantee": promise.words}
    if promise.classes is not None:
        row |= {f"set_{name}": int(name in promise.classes) for name in predictor.classes}
    if promise.intervals is not None:
        bounds = [bound for interval in promise.intervals for bound in interval]
        row |= dict(zip(_promised_names(predictor), bounds, strict=True))
    return row | {f"region_{name}": count for name, count in (promise.voxels or {}).items()}


def _deviations(predictor: Predictor) -> list[str]:
    """Return the columns of what the fill leaves open; a label map has no room for it."""
    if predictor.task == "segmentation":
        return []
    names = predictor.classes or _value_names(predictor.manifest.outputs)
    return [f"fill_sd_{name}" for name in names]


class _Read(NamedTuple):
    """An item and its volume, or the sample that is read part by part, or why there is neither."""

    item: Item
    volume: Volume | None
    records: list[Record]
    scan: io.Source | None = None
    error: str = ""
    sample: Sample | None = None


def _read(predictor: Predictor, item: Item, wanted: Wanted) -> _Read:
    try:
        sample = predictor.scan(item.source, axes=wanted.axes, at=wanted.at)
        if wanted.maps is not None and wanted.draws is None and streaming.streams(predictor, sample):
            return _Read(item, None, [], sample.first, sample=sample)
        return _Read(item, *predictor.place(sample), sample.first)
    except (VoxgapError, OSError) as error:
        return _Read(item, None, [], error=" ".join(str(error).split()))


def _ahead(
    readers: ThreadPoolExecutor, predictor: Predictor, items: Iterable[Item], wanted: Wanted
) -> Iterator[_Read]:
    """Read items in their order, a batch ahead of the network and no further."""
    waiting: list[Future[_Read]] = []
    rest = iter(items)
    while True:
        waiting += [
            readers.submit(_read, predictor, item, wanted)
            for item in itertools.islice(rest, predictor.batch_size + _READERS - len(waiting))
        ]
        if not waiting:
            return
        yield waiting.pop(0).result()


def _batched(reads: Iterator[_Read], size: int) -> Iterator[list[_Read]]:
    while batch := list(itertools.islice(reads, size)):
        yield batch


def _answer(predictor: Predictor, batch: Sequence[_Read], wanted: Wanted, tell: Tell) -> Iterator[Row]:
    answers = _answers(predictor, [read for read in batch if read.volume is not None], wanted)
    for read in batch:
        if read.sample is not None:
            try:
                yield _draw(predictor, read, wanted, tell)
            except (VoxgapError, OSError) as error:
                yield _begun(read.item) | {"error": " ".join(str(error).split()).removeprefix("volume 0: ")}
            continue
        if read.volume is None:
            yield _begun(read.item) | {"error": read.error}
            continue
        answer = next(answers)
        if isinstance(answer, VoxgapError):
            yield _begun(read.item) | {"error": str(answer).removeprefix("volume 0: ")}
            continue
        row = _begun(read.item) | row_of(predictor, read.item.name, answer, wanted)
        if predictor.task == "segmentation" and wanted.maps is not None:
            try:
                row |= _write_map(predictor, read, answer, wanted)
            except (VoxgapError, OSError) as error:
                row = _begun(read.item) | {"error": " ".join(str(error).split())}
        yield row


def _begun(item: Item) -> Row:
    said = {name: getattr(item, name) for name in OF_TABLES}
    return {"path": item.name} | {name: value for name, value in said.items() if value}


def _answers(predictor: Predictor, batch: Sequence[_Read], wanted: Wanted) -> Iterator[Answer | VoxgapError]:
    """Yield one answer for each volume, or why there is none: a volume without one keeps no other from its own."""
    top_k = max(1, wanted.top_k)
    try:
        volumes, records = ([getattr(read, name) for read in batch] for name in ("volume", "records"))
        yield from list(predictor.answers(volumes, top_k, records, wanted.draws, wanted.seed))
    except VoxgapError:
        for read in batch:
            try:
                yield predictor.answer(read.volume, top_k, read.records, wanted.draws, wanted.seed)
            except VoxgapError as error:
                yield error


def _write_map(predictor: Predictor, read: _Read, answer: Answer, wanted: Wanted) -> Row:
    assert read.volume is not None
    assert wanted.maps is not None
    labels = predictor.label_map(answer.values, read.volume, read.records, wanted.outside)
    file = maps.place_of(read.item, wanted.maps)
    maps.put(file, labels, read.scan, wanted.overwrite)
    doubts = _segments(predictor, file, labels, read, wanted)
    warned = {"warnings": BETWEEN.join((*answer.drift, *doubts))} if doubts else {}
    return maps.said_of(file, predictor.count_voxels(labels), read.scan) | warned


def _segments(
    predictor: Predictor, file: Path, labels: Volume, read: _Read, wanted: Wanted
) -> tuple[str, ...]:
    """Write the segments of a DICOM series; the first class is the background."""
    names = dict(zip(predictor.label_values[1:], predictor.classes[1:], strict=True))
    return maps.put_segments(file, labels, read.scan, names, wanted.overwrite)


def _draw(predictor: Predictor, read: _Read, wanted: Wanted, tell: Tell) -> Row:
    """Draw the label map of a sample part by part, so that its size is no matter of memory."""
    assert read.sample is not None
    assert wanted.maps is not None
    started = time.perf_counter()
    file = maps.place_of(read.item, wanted.maps)
    with streaming.drawn(predictor, read.sample, file, partial(tell, read.item.name)) as drawn:
        maps.put(file, drawn.labels, read.scan, wanted.overwrite)
        doubts = _segments(predictor, file, drawn.labels, read, wanted)
    said = Answer(
        drawn.labels.values,
        label=None,
        top=(),
        calibrated=None,
        missing_rate=drawn.missing_rate,
        drift=(*drawn.drift, *doubts),
        seconds=time.perf_counter() - started,
        **vars(predictor.running),
    )
    row = _begun(read.item) | row_of(predictor, read.item.name, said, wanted)
    return row | maps.said_of(file, drawn.counts, read.scan)


def _journal(out: Path) -> Path:
    return out.with_name(f".{out.name}.journal")


def _is_of(journal: Path, key: Row) -> bool:
    """Return whether a journal was begun by the job of this key."""
    try:
        return journal.is_file() and next(_lines(journal), None) == json.loads(
            json.dumps(ended.resolved(key))
        )
    except ValueError:
        return False


def _put(stream: TextIO, row: Row) -> None:
    stream.write(json.dumps(row) + "\n")
    stream.flush()


def _lines(journal: Path) -> Iterator[Row]:
    """Yield the whole lines of a journal; the last one of a killed job may lack its end."""
    with journal.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)


def _recover(journal: Path, key: Row) -> set[str]:
    """Cut a journal to its whole rows, and name those that are there; one of another key is removed."""
    if not journal.is_file():
        return set()
    names: set[str] = set()
    try:
        if not _is_of(journal, key):
            raise ValueError("of another job")
        names.update(str(row["path"]) for row in itertools.islice(_lines(journal), 1, None))
    except (ValueError, KeyError, TypeError):
        journal.unlink()
        return set()
    with journal.open("rb+") as stream:
        data = stream.seek(0, os.SEEK_END)
        stream.truncate(_whole(stream, data))
    return names


def _whole(stream: Any, size: int) -> int:
    """Count the bytes up to and with the last line end."""
    step = 2**16
    for start in range(max(0, size - step), -1, -step) if size > step else [0]:
        stream.seek(start)
        end = stream.read(step).rfind(b"\n")
        if end >= 0:
            return int(start + end + 1)
    return 0


def _finish(journal: Path, items: Sequence[Item], out: Path, columns: Sequence[str]) -> Done:
    """Write the rows of a journal as the table, those of files that are no longer asked for left out."""
    asked = {item.name for item in items}
    done = Done()

    def each() -> Iterator[Row]:
        for row in itertools.islice(_lines(journal), 1, None):
            if row["path"] in asked:
                done.count(row)
                yield {name: row.get(name) for name in columns}

    with replacing(out) as temporary:
        WRITERS[out.suffix.lower()](temporary, each(), columns)
    return done
