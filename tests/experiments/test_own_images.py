"""Images of one's own as a CSV file and as a folder of PNG and JPEG files."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.common.data import datasets
from experiments.common.data.sources import csv_file, decoded, image_folder
from experiments.common.errors import InputError

RNG = np.random.default_rng(3)
X = RNG.integers(0, 256, (20, 4, 4), dtype=np.uint8)
Y = np.array([7, 3, 11, 3] * 5)
CLASSES = np.array([1, 0, 2, 0] * 5)  # of folders 3, 7 and 11, in the order of their values
HEADER = "label," + ",".join(f"pixel{i}" for i in range(16))
LINES = [f"{label}," + ",".join(map(str, x.ravel())) for x, label in zip(X, Y, strict=True)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXAE_CACHE_DIR", str(tmp_path / "cache"))


def fingerprint(folder, **arrays):
    """Returns the fingerprint of the same images in an .npz file."""
    np.savez(folder / "same.npz", **arrays)
    return datasets.load(str(folder / "same.npz")).fingerprint()


def make_pipe(path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(path)


# CSV


CSV_FILES = {
    "with a header": "\n".join([HEADER, *LINES]) + "\n",
    "without": "\n".join(LINES),
    "of Windows": "\ufeff" + "\r\n".join([HEADER, *LINES, "", ""]),
    "of numpy.savetxt": "\n".join([f"# {HEADER}", *LINES]),
    "of pandas without names": "\n".join([",".join(map(str, range(17))), *LINES]),
    "all in quotes": "\n".join(f'"{line}"'.replace(",", '","') for line in [HEADER, *LINES]),
    "a comma behind every line": ",\n".join([HEADER, *LINES, ""]),
    "a comma behind every image": "\n".join([HEADER, *(f"{line}," for line in LINES)]),
    "without names, a comma behind every image": "".join(f"{line},\n" for line in LINES),
    "a line for Excel": "\n".join(["sep=,", HEADER, *LINES]),
    "quoted header": "\n".join([HEADER.replace("label", '"Label"'), *LINES]),
    "label last": "\n".join(
        [
            ",".join(line.split(",")[1:] + line.split(",")[:1])
            for line in [HEADER.replace("label", "class"), *LINES]
        ]
    ),
}


@pytest.mark.parametrize("text", CSV_FILES.values(), ids=CSV_FILES)
def test_a_csv_file_is_the_same_as_its_arrays(text, tmp_path):
    (tmp_path / "Mine.CSV").write_text(text, encoding="utf-8", newline="")
    found = datasets.load(str(tmp_path / "Mine.CSV"))
    assert found.name == "Mine.CSV"
    assert (len(found.train), len(found.test)) == (16, 4)
    assert found.fingerprint() == fingerprint(tmp_path, x_train=X, y_train=Y)


@pytest.mark.parametrize("header", ["", HEADER.removeprefix("label,") + "\n"])
def test_a_csv_file_without_labels(header, tmp_path):
    lines = [line.split(",", 1)[1] for line in LINES]
    (tmp_path / "x.csv").write_text(header + "\n".join(lines))
    found = datasets.load(str(tmp_path / "x.csv"))
    assert found.train_labels is None
    assert found.fingerprint() == fingerprint(tmp_path, x_train=X)


def test_any_whole_number_is_a_label(tmp_path):
    lines = [
        f"{label}," + line.split(",", 1)[1]
        for label, line in zip([-1, 9 * 10**9] * 10, LINES, strict=True)
    ]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    found = datasets.load(str(tmp_path / "x.csv"))
    assert set(found.train_labels) == {-1, 9 * 10**9}


def pixels(value):
    return f"1{f',{value}' * 16}"


BAD_CSV = {
    "empty": ("", "is empty$"),
    "only a header": (HEADER, "holds no images, but only the names"),
    "ragged": ("\n".join([HEADER, *LINES, "1,2"]), "line 22 has 2 values, but the first line 17"),
    "one more": (f"{LINES[0]}\n{LINES[1]},1", "line 2 has 18 values, but the first line 17"),
    "negative": (pixels(-1), r"line 1 must be whole numbers from 0 to 255 .* '-1'"),
    "256": (f"\n{pixels(256)}", "line 2 must be whole .* '256'"),
    "huge": (pixels(10**30), r"must be whole .* '10000000000000000000\.\.\.'"),
    "a fraction": (f"{HEADER}\n{pixels('3.0')}", r"line 2 must be whole .* '3\.0'"),
    "as only Python writes": (pixels("1_0"), "'1_0'"),
    "a word": (f"{HEADER}\n{pixels('x')}", "line 2 must be whole .* 'x'"),
    "nothing": (f"{HEADER}\n{pixels('')}", "line 2 must be whole .* ''"),
    "a label in words": (
        f"{LINES[0]}\na,{pixels(0)[2:]}",
        "line 2 must have a whole number as its",
    ),
    "a label beyond 64 bits": (f"{LINES[0]}\n{2**63},{pixels(0)[2:]}", "line 2 must have a whole"),
    "no square": (
        "1,2,3,4,5,6,7",
        "7 columns, .* name the columns in its first line: label,pixel0",
    ),
    "an index": (f",{HEADER}\n0,{LINES[0]}", r"without a name.*to_csv\(path, index=False\)"),
    "semicolons": (HEADER.replace(",", ";"), "divided by commas, not ;"),
    "numbers of rows": (
        f"id,{HEADER}\n1,{LINES[0]}",
        "has a column 'id', which is no pixel; name it label if it is the class, otherwise leave",
    ),
    "a label of another name": (
        f"{HEADER.replace('label', 'Digit')}\n{LINES[0]}",
        "has a column 'digit', which is no pixel; name it label if",
    ),
    "of old Macintoshes": ("\r".join([HEADER, *LINES]), "ends its lines as old Macintoshes do"),
    "two labels": (f"class,{HEADER}\n1,{LINES[0]}", "one column of labels at most"),
    "a gzip file": (b"\x1f\x8b\x08\x00", "is gzipped; unpack it"),
    "a web page": (b"<!DOCTYPE html>\n<html>", "but it is a web page, as a failed download leaves"),
    "of numpy.savetxt": (
        "\n".join(",".join(f"{int(v):.18e}" for v in line.split(",")) for line in LINES),
        r"line 1 must have a whole number .*; numpy.savetxt\(path, x, fmt='%d', delimiter=','\)",
    ),
    "pixels of at most 1": (
        f"{HEADER}\n{pixels('0.3')}",
        "'0.3'; multiply pixels in .0, 1. by 255",
    ),
    "labels behind the pixels": (
        "\n".join(",".join([*line.split(",")[1:], line.split(",")[0]]) for line in LINES),
        "values in its first column and .* in the last, so the labels may be in either; name the",
    ),
    "labels behind a black border": (
        "\n".join(f"0,{','.join(line.split(',')[2:])},{line.split(',')[0]}" for line in LINES),
        "1 value in its first column and .* values in the last",
    ),
    "UTF-16": (HEADER.encode("utf-16"), "save it as CSV UTF-8"),
    "a fraction before all others": (
        "\n".join([pixels("3.0"), *LINES]),
        r"line 1 must be .*'3\.0'",
    ),
}


@pytest.mark.parametrize(("content", "match"), BAD_CSV.values(), ids=BAD_CSV)
def test_bad_csv_files(content, match, tmp_path):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        datasets.load(str(tmp_path / "x.csv"))
    assert str(caught.value).startswith("--dataset")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*"))  # nothing half-written


def test_a_csv_line_without_end_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "_MAX_LINE", 100)
    (tmp_path / "x.csv").write_text("1," * 100)
    with pytest.raises(InputError, match="line 1 is too long"):
        datasets.load(str(tmp_path / "x.csv"))


def test_csv_files_that_are_none(tmp_path):
    make_pipe(tmp_path / "pipe.csv")
    for name, match in (("no.csv", "does not exist$"), ("pipe.csv", "no regular file")):
        with pytest.raises(InputError, match=match):
            datasets.load(str(tmp_path / name))


# folders of images


def write_images(folder, images=X, labels=Y, mode=None, suffix="png"):
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image)
        picture.convert(mode or picture.mode).save(place / f"{number}.{suffix}")


def test_a_folder_of_digits_is_the_same_as_its_arrays(tmp_path):
    write_images(tmp_path / "mine", suffix="PNG")
    (tmp_path / "mine" / ".DS_Store").write_text("of macOS")
    (tmp_path / "mine" / "3" / "Thumbs.db").write_text("of Windows")
    (tmp_path / "mine" / "3" / "._2.png").write_text("of macOS")
    (tmp_path / "mine" / "__MACOSX").mkdir()
    Image.fromarray(X[0]).save(tmp_path / "mine" / "__MACOSX" / "0.png")
    (tmp_path / "mine" / "README.txt").write_text("about the images")
    found = datasets.load(str(tmp_path / "mine"))
    assert found.fingerprint() == fingerprint(tmp_path, x_train=X, y_train=CLASSES)
    # Numbers of another order, were they sorted as text: 11, 3, 7.
    assert {len(c): set(c) for c in [found.train_labels]} == {16: {0, 1, 2}}


@pytest.mark.parametrize("names", [("train", "test"), ("training", "testing"), ("Train", "val")])
def test_folders_of_splits(names, tmp_path):
    for name, part in zip(names, (slice(12), slice(12, 20)), strict=True):
        write_images(tmp_path / "mine" / name, X[part], Y[part])
    arrays = {"x_train": X[:12], "y_train": CLASSES[:12], "x_test": X[12:], "y_test": CLASSES[12:]}
    assert datasets.load(str(tmp_path / "mine")).fingerprint() == fingerprint(tmp_path, **arrays)


def test_a_class_that_only_one_split_has_keeps_its_number(tmp_path):
    write_images(tmp_path / "mine" / "train", X[:4], np.array(["a", "b", "b", "c"]))
    write_images(tmp_path / "mine" / "test", X[4:7], np.array(["c", "b", "d"]))
    found = datasets.load(str(tmp_path / "mine"))
    assert sorted(found.train_labels) == [0, 1, 1, 2]
    assert sorted(found.test_labels) == [1, 2, 3]


def test_images_without_classes(tmp_path):
    write_images(tmp_path / "mine", labels=np.full(20, "train"))  # the only split, and held out
    for folder in (tmp_path / "mine", tmp_path / "mine" / "train"):
        found = datasets.load(str(folder))
        assert found.train_labels is None
        assert found.fingerprint() == fingerprint(tmp_path, x_train=X)


def test_colours_and_palettes(tmp_path):
    colours = RNG.integers(0, 256, (20, 2, 3, 3), dtype=np.uint8)
    write_images(tmp_path / "rgb", colours)
    palette = [Image.fromarray(image).quantize(6) for image in colours]  # it has six pixels
    place = tmp_path / "palette" / "3"
    place.mkdir(parents=True)
    for number, image in enumerate(palette):
        image.save(place / f"{number}.png")
    expected = np.stack([np.asarray(image.convert("RGB")) for image in palette])
    assert datasets.load(str(tmp_path / "rgb")).example_shape == (2, 3, 3)
    found = datasets.load(str(tmp_path / "palette"))
    assert found.fingerprint() == fingerprint(tmp_path, x_train=expected, y_train=np.zeros(20, int))
    opaque = np.concatenate([colours, np.full((20, 2, 3, 1), 255, np.uint8)], axis=-1)
    write_images(tmp_path / "opaque", opaque)
    same = [datasets.load(str(tmp_path / name)).fingerprint() for name in ("rgb", "opaque")]
    assert same[0] == same[1]


def test_jpeg_and_bilevel_images(tmp_path):
    for start, suffix in ((0, "JPG"), (10, "jfif")):
        write_images(tmp_path / "jpeg", X[start : start + 10], Y[start : start + 10], suffix=suffix)
    assert len(datasets.load(str(tmp_path / "jpeg")).test) == 4  # and 16 to train on
    assert datasets.load(str(tmp_path / "jpeg")).example_shape == (4, 4, 1)
    write_images(tmp_path / "bilevel", mode="1")
    assert set(np.unique(datasets.load(str(tmp_path / "bilevel")).train)) == {0.0, 1.0}


def test_the_name_of_a_folder(tmp_path, monkeypatch):
    write_images(tmp_path / "my images")
    monkeypatch.chdir(tmp_path / "my images")
    for path in (".", "./", "../my images/", "3/..", str(tmp_path / "my images" / ".")):
        assert datasets.load(path).name == "my images"
    monkeypatch.chdir(tmp_path)
    assert datasets.load("my images").name == "my images"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets.load("~/my images").name == "my images"


def test_a_folder_with_the_name_of_a_data_set_needs_a_path(tmp_path, monkeypatch):
    write_images(tmp_path / "mnist")
    monkeypatch.chdir(tmp_path)
    assert datasets.load("./mnist").example_shape == (4, 4, 1)
    with pytest.raises(InputError, match="--data-dir nowhere is not a folder"):
        datasets.load("mnist", tmp_path.relative_to(tmp_path) / "nowhere")


def test_decoded_images_are_kept(tmp_path, monkeypatch):
    write_images(tmp_path / "mine")
    (tmp_path / "x.csv").write_text("\n".join(LINES))
    paths = [str(tmp_path / "mine"), str(tmp_path / "x.csv")]
    first = [datasets.load(path).fingerprint() for path in paths]
    for path in (tmp_path / "cache").glob("*/*.npy"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")  # damaged: they are decoded again
    assert [datasets.load(path).fingerprint() for path in paths] == first
    monkeypatch.setattr(decoded, "_write_entry", lambda *_: pytest.fail("decoded again"))
    stored = [datasets.load(path, has_room=lambda _: False) for path in paths]
    assert [dataset.is_streamed for dataset in stored] == [True, True]
    assert [dataset.fingerprint() for dataset in stored] == first


def test_images_are_read_without_a_cache(tmp_path, monkeypatch, caplog):
    write_images(tmp_path / "mine")
    monkeypatch.setenv("JAXAE_CACHE_DIR", str(tmp_path / "mine" / "3" / "1.png" / "cache"))
    found = datasets.load(str(tmp_path / "mine")).fingerprint()
    assert found == fingerprint(tmp_path, x_train=X, y_train=CLASSES)
    assert "not kept" in caplog.text


def test_a_moved_image_has_another_class(tmp_path):
    write_images(tmp_path / "mine")
    first = datasets.load(str(tmp_path / "mine"))
    (tmp_path / "mine" / "7" / "0.png").rename(tmp_path / "mine" / "11" / "0.png")
    assert datasets.load(str(tmp_path / "mine")).fingerprint() != first.fingerprint()


# bad folders


def png(depth, colour, row, size=4):
    """Returns a PNG of equal rows of bytes, of kinds that Pillow does not write."""

    def chunk(kind, body):
        whole = kind + body
        return struct.pack(">I", len(body)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", size, size, depth, colour, 0, 0, 0)
    body = zlib.compress((b"\0" + row) * 4)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def saved(array, mode=None, **options):
    return lambda path: Image.fromarray(array).convert(mode).save(path, **options)


def content(value):
    return lambda path: path.write_bytes(value)


GREY = np.full((4, 4), 9, np.uint8)
BAD_IMAGES = {
    "another size": (
        "3/x.png",
        saved(np.zeros((5, 4), np.uint8)),
        "x.png is 5 x 4 grey, but .*is 4",
    ),
    "colour": ("3/x.png", saved(GREY, "RGB"), "x.png is 4 x 4 colour, but .* is 4 x 4 grey"),
    "transparent": (
        "3/x.png",
        saved(np.zeros((4, 4, 4), np.uint8)),
        "x.png has transparent pixels",
    ),
    "transparent colour": ("3/x.png", saved(GREY, transparency=9), "x.png has transparent pixels"),
    "16 bits": ("3/x.png", saved(GREY.astype(np.uint16)), "x.png has more than 8 bits a channel"),
    "16 bits of colour": ("3/x.png", content(png(16, 2, bytes(24))), "more than 8 bits a channel"),
    "for printing": ("3/x.jpeg", saved(GREY, "CMYK"), "x.jpeg has the mode CMYK; save it as"),
    "no image": ("3/x.png", content(b"hello"), "x.png cannot be read as an image"),
    "empty": ("3/x.jpg", content(b""), "x.jpg cannot be read as an image"),
    "truncated": ("3/x.png", content(png(8, 0, bytes(4))[:43]), "x.png cannot be read as an image"),
    "a bomb": ("3/x.png", content(png(8, 0, bytes(4), 12000)), "x.png cannot be read as an image"),
    "a GIF named PNG": ("3/x.png", saved(GREY, format="GIF"), "x.png cannot be read as an image"),
    "a GIF by its name alone": (
        "3/x.jpg",
        saved(GREY, format="GIF"),
        "x.jpg cannot be read as an image: it must be a PNG or a JPEG, but it is a GIF image$",
    ),
    "a pointer of Git LFS": (
        "3/x.png",
        content(b"version https://git-lfs.github.com/spec/v1"),
        "only a pointer to the file; git lfs pull fetches the file itself",
    ),
    "a GIF": ("3/x.gif", saved(GREY), "x.gif must be a PNG or a JPEG"),
    "beside the classes": ("x.png", saved(GREY), "x.png is beside folders of images, such as 11"),
    "too deep": ("3/deep/x.png", saved(GREY), "deep holds images, but is in the folder of a class"),
    "beside train": ("train/3/x.png", saved(GREY), "train/3 holds images, but is in the folder of"),
    "JPEG of another kind": ("3/x.jp2", content(b""), "x.jp2 must be a PNG or a JPEG"),
    "a pipe": ("3/x.png", make_pipe, "x.png is no regular file"),
    "a link to nothing": (
        "3/x.png",
        lambda path: path.symlink_to("no"),
        "x.png is no regular file",
    ),
}


@pytest.mark.parametrize(("name", "make", "match"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_images(name, make, match, tmp_path):
    write_images(tmp_path / "mine", X[:5], Y[:5])
    (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
    make(tmp_path / "mine" / name)
    with pytest.raises(InputError, match=match) as caught:
        datasets.load(str(tmp_path / "mine"))
    assert str(caught.value).startswith(f"--dataset {tmp_path / 'mine'}")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*"))  # nothing half-written


@pytest.mark.parametrize("name", ["@eaDir", "$RECYCLE.BIN", "lost+found"])
def test_folders_of_the_system_are_no_classes(name, tmp_path):
    write_images(tmp_path / "mine", X, Y)
    before = datasets.load(str(tmp_path / "mine")).fingerprint()
    (tmp_path / "mine" / name).mkdir()
    (tmp_path / "mine" / name / "x.jpg").write_bytes(b"a thumbnail of another kind")
    assert datasets.load(str(tmp_path / "mine")).fingerprint() == before


def test_images_that_are_deeper_are_named(tmp_path):
    for names in (("archive", "mnist"), ("test",), ("train_images",)):
        folder = tmp_path / names[0].upper()
        write_images(folder.joinpath(*names), X[:5], np.full(5, "a"))
        with pytest.raises(InputError, match=rf"holds {names[0]}, and images only.*/a/\d.png"):
            datasets.load(str(folder))


def test_two_folders_of_one_split_are_refused(tmp_path):
    write_images(tmp_path / "mine" / "train", X[:5], Y[:5])
    if (tmp_path / "mine" / "TRAIN").exists():
        pytest.skip("this file system has one name for both")
    for name in ("Train", "test"):
        write_images(tmp_path / "mine" / name, X[:5], Y[:5])
    with pytest.raises(InputError, match="Train and train, which mean the same"):
        datasets.load(str(tmp_path / "mine"))


def test_links_between_folders_of_classes(tmp_path):
    write_images(tmp_path / "mine")
    (tmp_path / "mine" / "3" / "up").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "same").symlink_to(tmp_path / "mine")
    assert len(datasets.load(str(tmp_path / "mine")).train) == 16


def test_a_photograph_is_turned_as_viewers_turn_it(tmp_path):
    (tmp_path / "mine").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6  # of a camera that was held upright
    for number, image in enumerate(np.tile(X, (1, 1, 2))):
        Image.fromarray(image).save(tmp_path / "mine" / f"{number}.png", exif=turned)
    found = datasets.load(str(tmp_path / "mine"))
    upright = np.rot90(np.tile(X, (1, 1, 2)), -1, axes=(1, 2))
    assert found.fingerprint() == fingerprint(tmp_path, x_train=upright)


def test_folders_that_hold_no_images(tmp_path):
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "a" / "b" / "c"):
        assert not image_folder.is_image_folder(folder)
        with pytest.raises(InputError, match=r"no PNG or JPEG images.* are for --data-dir"):
            datasets.load(str(folder))
    (tmp_path / "a" / "notes.txt").write_text("1,2,3")
    with pytest.raises(InputError, match=r"is a file, but of files only .npy, .npz and .csv are"):
        datasets.load(str(tmp_path / "a" / "notes.txt"))
    write_images(tmp_path / "a", X[:3], Y[:3])
    assert image_folder.is_image_folder(tmp_path / "a")
    with pytest.raises(InputError, match="--data-dir is for named data sets"):
        datasets.load(str(tmp_path / "a"), tmp_path)
