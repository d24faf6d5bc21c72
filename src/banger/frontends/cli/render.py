"""Results for people: tables and lists of fields. Pure; made for a thousand rows in a few milliseconds."""

from __future__ import annotations

from banger.frontends.cli.output import clean
from banger.model.sizes import show_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Row = dict[str, object]

MIB = 1 << 20


def seconds_of(stamp: str) -> int:
    """Unix time of an ISO 8601 UTC stamp; `datetime` would cost a tenth of the whole command. Days by the civil calendar, years from March."""
    year, month, day = int(stamp[:4]), int(stamp[5:7]), int(stamp[8:10])
    year -= month < 3
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 719469
    return days * 86400 + int(stamp[11:13]) * 3600 + int(stamp[14:16]) * 60 + int(stamp[17:19])


def age(stamp: object, now: float) -> str:
    """`5m`: the largest unit of the time that has passed; `-` when there is none."""
    if not isinstance(stamp, str):
        return "-"
    passed = max(0, int(now) - seconds_of(stamp))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if passed >= size:
            return f"{passed // size}{unit}"
    return f"{passed}s"


def _size(value: object) -> str:
    return show_size(value) if isinstance(value, int) and value else "-"


def _mib(value: object) -> str:
    return show_size(value * MIB) if isinstance(value, int) and value else "-"


def table(heads: Sequence[str], rows: list[list[str]]) -> str:
    """Columns as wide as their longest cell; no line ends in blanks."""
    columns = list(zip(heads, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    widths[-1] = 0
    form = "  ".join(f"{{:{width}}}" for width in widths)
    return "".join(form.format(*row).rstrip() + "\n" for row in [list(heads), *rows])


def _text(row: Row, key: str) -> str:
    return clean(str(row.get(key, ""))) or "-"


def machines(rows: list[Row], now: float) -> str:
    """`vm list`."""
    heads = ("ID", "NAME", "STATE", "IMAGE", "VCPU", "MEM", "DISK", "ADDRESS", "CREATED")
    cells = [
        [
            _text(row, "id"),
            _text(row, "name"),
            _text(row, "state") + _ended(row.get("entrypoint")),
            _text(row, "image"),
            _text(row, "vcpu"),
            _mib(row.get("memory_mib")),
            _size(row.get("disk_bytes")),
            _text(row, "address"),
            age(row.get("created"), now),
        ]
        for row in rows
    ]
    return table(heads, cells)


def _ended(entrypoint: object) -> str:
    """What became of what the image runs by itself, once it does not run any more."""
    if not isinstance(entrypoint, dict) or entrypoint.get("state") == "running":
        return ""
    how = {"exited": "status", "killed": "signal"}.get(str(entrypoint.get("state")), "")
    return f" ({clean(' '.join(str(entrypoint.get(key, '')) for key in ('state', how) if key))})"


def _shelf(row: Row) -> list[str]:
    place = "local" if row.get("local") else "available"
    built = str(row.get("built") or "-")[:10]
    return [_text(row, "name"), place, _size(row.get("size_bytes")), _size(row.get("used_bytes")), built, _text(row, "source")]


def images(rows: list[Row], now: float) -> str:
    """`image list`."""
    heads = ("NAME", "STATE", "SIZE", "USED", "BUILT", "SOURCE", "KERNEL", "USED BY", "DESCRIPTION")
    return _offered(heads, [[*_shelf(row), _text(row, "kernel"), _users(row), _text(row, "description")] for row in rows], rows)


def kernels(rows: list[Row], now: float) -> str:
    """`kernel list`."""
    heads = ("NAME", "STATE", "SIZE", "USED", "BUILT", "SOURCE", "USED BY", "DESCRIPTION")
    return _offered(heads, [[*_shelf(row), _users(row), _text(row, "description")] for row in rows], rows)


def _offered(heads: Sequence[str], cells: list[list[str]], rows: list[Row]) -> str:
    """With a column of catalogs before the last, if any is told."""
    if not any(row.get("catalog") for row in rows):
        return table(heads, cells)
    told = [[*cell[:-1], _catalog(row), cell[-1]] for cell, row in zip(cells, rows, strict=True)]
    return table([*heads[:-1], "CATALOG", heads[-1]], told)


def _catalog(row: Row) -> str:
    """Which one offers it, and whose of that name is not."""
    hides = row.get("hides")
    hidden = [clean(str(name)) for name in hides] if isinstance(hides, list) else []
    return _text(row, "catalog") + (f" (not {', '.join(hidden)})" if hidden else "")


def catalogs(rows: list[Row], now: float) -> str:
    """`catalog list`."""
    cells = [
        [_text(row, key) for key in ("name", "serial", "images", "kernels")]
        + [clean(str(row.get("key") or "nobody")), age(row.get("updated"), now), _text(row, "trouble" if row.get("trouble") else "location")]
        for row in rows
    ]
    return table(("NAME", "SERIAL", "IMAGES", "KERNELS", "SIGNED BY", "UPDATED", "FROM"), cells)


def _users(row: Row) -> str:
    """Two of them, and how many more there are."""
    users = row.get("used_by")
    names = [clean(str(user)) for user in users] if isinstance(users, list) else []
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "") or "-"


def firecrackers(rows: list[Row], now: float) -> str:
    """`firecracker list`."""
    cells = [
        [_text(row, key) for key in ("version", "source")] + ["yes" if row.get("used") else "no", _text(row, "path"), _text(row, "jailer")]
        for row in rows
    ]
    return table(("VERSION", "FROM", "USED", "PATH", "JAILER"), cells)


def usage(rows: list[Row], now: float) -> str:
    """`system df`."""
    cells = [
        [_text(row, "kind"), _text(row, "count"), _size(row.get("used_bytes")), _size(row.get("reclaimable_bytes")), _text(row, "place")]
        for row in rows
    ]
    return table(("WHAT", "COUNT", "SIZE", "RECLAIMABLE", "IN"), cells)


def operations(rows: list[Row], now: float) -> str:
    """`daemon operations`."""
    heads = ("ID", "OPERATION", "SUBJECT", "STARTED", "STATE", "STAGE", "DETAIL")
    return table(heads, [[*(_text(row, key) for key in ("id", "name", "subject")), age(row.get("started"), now), *_stand(row)] for row in rows])


def _stand(row: Row) -> list[str]:
    failure = row.get("failure")
    if isinstance(failure, dict):
        return ["failed", _text(row, "stage"), clean(str(failure.get("message", "")))]
    return ["done" if row.get("finished") else "running", _text(row, "stage"), _text(row, "detail")]


def fields(row: Row) -> str:
    """One thing: a line for each field, sizes also for people."""
    width = max(map(len, row), default=0)
    return "".join(f"{key.replace('_', ' '):{width}}  {_field(key, value)}".rstrip() + "\n" for key, value in row.items())


def _field(key: str, value: object) -> str:
    if value is None or value in ("", {}, []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key.endswith("_bytes"):
        return f"{value} ({show_size(value)})"
    if isinstance(value, list):
        return ", ".join(_field(key, one) for one in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {told}" for name, one in value.items() if (told := _field(name, one)) != "-") or "-"
    if isinstance(value, list):
        return " ".join(_field(key, one) for one in value)
    return clean(str(value))


LISTS: dict[str, Callable[[list[Row], float], str]] = {
    "vm.list": machines,
    "image.list": images,
    "kernel.list": kernels,
    "catalog.list": catalogs,
    "firecracker.list": firecrackers,
    "daemon.operations": operations,
    "system.df": usage,
}


def result(op: str, value: object, now: float) -> str:
    """An op's result as text."""
    if isinstance(value, list):
        return LISTS[op](value, now) if op in LISTS else "".join(fields(row) for row in value)
    return fields(value) if isinstance(value, dict) else ""
