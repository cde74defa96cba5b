"""Images by the names of their files: which files are one image, and what their names say of it."""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_pretext.data.listing import Listing, find_images
from ssl_pretext.data.sources import RESAMPLING, Source
from ssl_pretext.errors import ArgumentError, DataError
from ssl_pretext.registry import did_you_mean, joined

__all__ = ["CHANNEL", "Pattern", "list_pattern", "parse_pattern", "resampling_of"]

CHANNEL, LABELS, GROUP = "channel", ("label", "class"), "group"
# A part in braces, whose alternatives follow a colon; or what stands for any text.
PART = re.compile(r"\{(?P<name>[^{}:]*)(?::(?P<choices>[^{}]*))?\}|(?P<folders>\*\*/)|(?P<any>\*)|(?P<wrong>[{}])")
DIGITS = re.compile(r"(\d+)")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pattern:
    """A pattern of file names with named parts.

    Attributes:
        text: The pattern as it was given.
        expression: The regular expression that the path of a file must match.
        parts: Names of the parts in their order.
        channels: The alternatives of the part `channel`, in their order; None if it has none.
    """

    text: str
    expression: re.Pattern[str]
    parts: tuple[str, ...]
    channels: tuple[str, ...] | None


def parse_pattern(text: str) -> Pattern:
    """Parses a pattern such as `{well}_s{site}_w{channel}.tif` or `{channel:rgb|depth}/{id}.png`.

    A part in braces stands for text without a slash, as long as possible, or for one of the alternatives after the
    colon. `*` stands for any text without a slash, and `**/` for any folders. A part that is named twice must be the
    same text both times; its alternatives are written the first time.

    Args:
        text: The pattern of the path relative to the folder of the images.

    Raises:
        ArgumentError: The pattern is malformed, or names no part but `channel`.

    Examples:
        >>> pattern = parse_pattern("{channel:rgb|depth}/{id}.png")
        >>> pattern.parts, pattern.channels, pattern.expression.fullmatch("rgb/7.png")["id"]
        (('channel', 'id'), ('rgb', 'depth'), '7')
    """
    expression, parts, channels, end = "", [], None, 0
    for match in PART.finditer(text):
        expression += re.escape(text[end : match.start()])
        end = match.end()
        name = match["name"]
        if match["wrong"] or (name is not None and not (name.isidentifier() and name.isascii())):
            raise ArgumentError(
                f"the pattern {text!r} is malformed at {match[0]!r}: a part is a name in braces, such as {{id}} or "
                "{channel:rgb|depth}"
            )
        if name is None:
            expression += "(?:.*/)?" if match["folders"] else "[^/]*"
        elif name in parts and match["choices"] is not None:
            raise ArgumentError(
                f"the pattern {text!r} names the part {name!r} twice; write its alternatives where it comes first only"
            )
        elif name in parts:
            expression += f"(?P={name})"
        else:
            choices = None if match["choices"] is None else tuple(match["choices"].split("|"))
            if choices is not None and ("" in choices or len({*choices}) < len(choices)):
                raise ArgumentError(f"the alternatives of {match[0]!r} must be different and not empty")
            if name == CHANNEL:
                channels = choices
            expression += f"(?P<{name}>{'[^/]+' if choices is None else '|'.join(map(re.escape, choices))})"
            parts.append(name)
    if not {*parts} - {CHANNEL}:
        raise ArgumentError(
            f"the pattern {text!r} has no part that tells one image from another; name one, such as {{id}} in "
            f"'{{id}}_{{{CHANNEL}}}.png'"
        )
    if len({*parts} & {*LABELS}) > 1:
        raise ArgumentError(
            f"the pattern {text!r} has the parts label and class, which mean the same; name one of them"
        )
    return Pattern(text, re.compile(expression + re.escape(text[end:])), tuple(parts), channels)


def list_pattern(
    folder: str | Path,
    pattern: str,
    *,
    labeled: bool = True,
    group: str | None = None,
    masks: str | None = None,
    max_incomplete: float = 0.9,
) -> Listing:
    """Lists the images of a folder whose files match a pattern.

    The part `channel` names the files whose channels are joined, in the order of its alternatives, or else sorted, with
    numbers by value. All other parts, joined by `/`, are the name of the image. The part `label` or `class` is its
    class.

    Args:
        folder: The folder.
        pattern: The pattern; see `parse_pattern`.
        labeled: Whether the part `label` or `class` is read, if the pattern has it. Otherwise all images have the class
            `"unlabeled"`.
        group: The part that is the group of an image; by default the part `group`, if the pattern has it.
        masks: Pattern of files that are masks, and no images.
        max_incomplete: Fraction of images that lack a channel above which an error is raised. Otherwise they are
            skipped.

    Raises:
        ArgumentError: The pattern is malformed, or has no part `group`.
        DataError: No file matches the pattern, two files of an image have the same channel, or too many images lack a
            channel.
        ReadError: A part of the folder cannot be listed now, for another reason than missing rights.
    """
    root, parsed = Path(folder), parse_pattern(pattern)
    if group == CHANNEL:
        raise ArgumentError(f"the part {CHANNEL!r} of a pattern cannot be the group, because an image has all channels")
    if group is not None and group not in parsed.parts:
        raise ArgumentError(
            f"the pattern {pattern!r} has no part {group!r} for the group.{did_you_mean(group, parsed.parts)} Its "
            f"parts are {joined(parsed.parts)}"
        )
    found, skipped = find_images(root)
    if masks is not None:
        is_mask = parse_pattern(masks).expression.fullmatch
        found = [name for name in found if not is_mask(name)]
    matches = {name: match for name in found if (match := parsed.expression.fullmatch(name))}
    if not matches:
        example = f"; its images are named like {found[0]}" if found else "; it holds no images"
        raise DataError(f"no file of {root} matches the pattern {pattern!r}{example}")
    if len(matches) < len(found):
        other = next(name for name in found if name not in matches)
        log.info(
            "%d of %d files in %s do not match %s, such as %s",
            len(found) - len(matches),
            len(found),
            *(root, pattern, other),
        )
    images: dict[str, dict[str, str]] = defaultdict(dict)  # the file of each channel by the name of the image
    parts = {}
    for file, match in matches.items():
        name = "/".join(match[part] for part in parsed.parts if part != CHANNEL)
        channel = match[CHANNEL] if CHANNEL in parsed.parts else ""
        if (first := images[name].setdefault(channel, file)) != file:
            raise DataError(
                f"{first} and {file} in {root} are both {f'the channel {channel} of ' if channel else ''}the image "
                f"{name}; give the part that differs a name, in place of * or **, in the pattern {pattern!r}"
            )
        parts[name] = match
    order = parsed.channels or tuple(sorted({channel for files in images.values() for channel in files}, key=_natural))
    names = _complete(images, order, root, pattern, skipped, max_incomplete)
    label = next((part for part in LABELS if part in parsed.parts), None) if labeled else None
    given = [parts[name][label] if label else "unlabeled" for name in names]
    classes = sorted({*given})
    part = group or (GROUP if GROUP in parsed.parts else None)
    return Listing(
        root,
        names,
        [Source(tuple(root / images[name][channel] for channel in order)) for name in names],
        [classes.index(name) for name in given],
        classes,
        sorted(skipped, key=lambda item: item["name"]),
        groups=None if part is None else [parts[name][part] for name in names],
        file_channels=order if CHANNEL in parsed.parts else None,
    )


def _complete(
    images: Mapping[str, Mapping[str, str]],
    order: Sequence[str],
    root: Path,
    pattern: str,
    skipped: list[dict[str, str]],
    max_incomplete: float,
) -> list[str]:
    """Returns the names of the images that have all channels; the others are added to those that were skipped."""
    lacking = {name: [channel for channel in order if channel not in files] for name, files in sorted(images.items())}
    reasons = {name: f"the image lacks {_named(missing)}" for name, missing in lacking.items() if missing}
    if not reasons:
        return [*lacking]
    few = "; ".join(f"{name}: {reason}" for name, reason in [*reasons.items()][:3])
    if len(reasons) > max_incomplete * len(images) or len(reasons) == len(images):
        raise DataError(
            f"{len(reasons)} of {len(images)} images in {root} lack one of the channels {joined(order)}: {few}. Check "
            f"the pattern {pattern!r}, or write the channels that all images have as alternatives, such as "
            f"{{{CHANNEL}:{order[0]}}}"
        )
    log.warning(
        "%d of %d images in %s are skipped, because they lack a channel: %s", len(reasons), len(images), root, few
    )
    skipped += [{"name": name, "reason": reason} for name, reason in reasons.items()]
    return [name for name in lacking if name not in reasons]


def _named(channels: Sequence[str]) -> str:
    return f"the channel{'s' * (len(channels) > 1)} {joined(channels)}"


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts `w2` before `w10`."""
    return [(int(text) if text.isdecimal() else 0, text) for text in DIGITS.split(name)]


def resampling_of(rules: str | Mapping[str, str] | None, channels: Sequence[str] | None) -> tuple[str | None, ...]:
    """Returns the rule by which each file of an image is resampled, in the order of the files.

    Args:
        rules: The rule of all files, or of some by the names of their channels; None if there is none.
        channels: What each file shows, if an image has several.

    Raises:
        ArgumentError: There is no such rule or channel, or each image is one file.
    """
    if rules is None:
        return ()
    if channels is None:
        raise ArgumentError(
            f"resample is for images from several files, which a pattern with the part {{{CHANNEL}}} joins; leave it "
            "out"
        )
    given = dict.fromkeys(channels, rules) if isinstance(rules, str) else dict(rules)
    for channel, rule in given.items():
        if channel not in channels:
            raise ArgumentError(
                f"resample names the channel {channel!r}, which no file shows.{did_you_mean(channel, channels)} The "
                f"channels are {joined(channels)}"
            )
        if rule not in RESAMPLING:
            raise ArgumentError(f"resample must be {joined(RESAMPLING, 'or')}, got {rule!r}")
    return tuple(given.get(channel) for channel in channels)
