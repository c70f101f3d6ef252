"""Small data sets with real files, in every layout. Pictures carry their video and frame number in their colours."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 80


def frame_picture(video: int, frame: int) -> np.ndarray:
    """A smooth RGB picture; its red level grows with the video, its green level with the frame."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    blue = 128 + 60 * np.sin(x / 9 + frame) * np.cos(y / 7 + video)
    red, green = np.full_like(blue, 40 + 30 * video), np.full_like(blue, 20 + 12 * frame)
    return np.stack([red, green, blue], -1).astype(np.uint8)


def object_mask(frame: int) -> np.ndarray:
    """Bool [H, W]: a box that moves to the right, five pixels a frame."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 5 + 5 * frame : 25 + 5 * frame] = True
    return mask


def save(path: Path, array: np.ndarray, palette: list[int] | None = None) -> Path:
    """A picture of exactly these values; with a palette, of labels."""
    picture = Image.fromarray(array)
    if palette is not None:
        picture.putpalette(palette)
    picture.save(path)
    return path


def write_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def write_palette_mask(path: Path, labels: np.ndarray) -> None:
    """A PNG with the palette of DAVIS: label 0 black, 1 red, 2 green, ..., 255 the colour of "void"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8), "P")
    palette = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [64] * (3 * 251) + [224, 224, 192]
    image.putpalette(palette)
    image.save(path)


def two_objects(frame: int) -> np.ndarray:
    """Labels [H, W]: the box of `object_mask` as object 1 above and 2 below its middle."""
    labels = object_mask(frame).astype(np.uint8)
    labels[20:] *= 2
    return labels


def write_video(frames: Path, masks: Path, video: int, count: int, suffix: str = ".jpg", every: int = 1) -> None:
    """Frames `00000.jpg`, ... and 0/255 masks of every `every`-th."""
    for frame in range(count):
        write_picture(frames / f"{frame:05d}{suffix}", frame_picture(video, frame))
        if frame % every == 0:
            write_picture(masks / f"{frame:05d}.png", object_mask(frame).astype(np.uint8) * 255)


def write_flows(folder: Path, video: int, count: int) -> None:
    """Flow pictures that are easy to tell from frames: the frame with red and blue swapped."""
    for frame in range(count):
        write_picture(folder / f"{frame:05d}.jpg", frame_picture(video, frame)[..., ::-1].copy())


def release_tree(root: Path, videos: int = 4, count: int = 9, every: int = 1) -> Path:
    """The layout of the release's code, with flow pictures: `frame/train/<video>`, ..."""
    for video in range(videos):
        name = f"video{video}"
        write_video(root / "frame/train" / name, root / "mask/train" / name, video, count, every=every)
        write_flows(root / "flow/train" / name, video, count)
    return root


def every_layout(root: Path) -> dict[str, Path]:
    """One data set in each layout, two videos of four frames (or so), by the layout's name. None has flow pictures."""
    made = {}

    made["release"] = root / "release"
    made["release-readme"] = root / "readme"
    for name, (frames, masks) in (("release", ("frame", "mask")), ("release-readme", ("Images", "Annotations"))):
        for video, kind in enumerate(("aeroplane_0001", "train0002")):
            write_video(made[name] / frames / "val" / kind, made[name] / masks / "val" / kind, video, 4)

    davis = made["davis-2016"] = root / "davis16"
    for video, kind in enumerate(("bear", "dog-agility", "unlisted")):
        write_video(davis / "JPEGImages/480p" / kind, davis / "Annotations/480p" / kind, video, 4)
    (davis / "ImageSets/480p").mkdir(parents=True)
    for split, kind in (("train", "bear"), ("val", "dog-agility")):
        lines = [f"/JPEGImages/480p/{kind}/{n:05d}.jpg /Annotations/480p/{kind}/{n:05d}.png" for n in range(4)]
        (davis / "ImageSets/480p" / f"{split}.txt").write_text("\n".join(lines) + "\n")

    davis = made["davis-2017"] = root / "davis17"
    for video, kind in enumerate(("bear", "dogs-jump")):
        write_video(davis / "JPEGImages/480p" / kind, davis / "elsewhere", video, 4)
        for frame in range(4):
            write_palette_mask(davis / "Annotations/480p" / kind / f"{frame:05d}.png", two_objects(frame))
    (davis / "ImageSets/2017").mkdir(parents=True)
    (davis / "ImageSets/2017/train.txt").write_text("bear\ndogs-jump\n")

    youtube = made["youtube-vos"] = root / "ytvos"
    for video, kind in enumerate(("003234408d", "0043f083b5")):
        for frame in range(0, 20, 5):
            picture = frame_picture(video, frame // 5)
            write_picture(youtube / "train/JPEGImages" / kind / f"{frame:05d}.jpg", picture)
            write_palette_mask(youtube / "train/Annotations" / kind / f"{frame:05d}.png", two_objects(frame // 5))
        for frame in range(16):
            picture = frame_picture(video, frame // 5)
            write_picture(youtube / "train_all_frames/JPEGImages" / kind / f"{frame:05d}.jpg", picture)

    objects = made["jpegimages"] = root / "prepared"
    for video, kind in enumerate(("cat", "cow")):
        write_video(objects / "JPEGImages" / kind / "0001", objects / "Annotations" / kind / "0001", video, 4, every=2)

    davsod = made["davsod"] = root / "davsod"
    for video, kind in enumerate(("DAVSOD-TrainingSet/select_0001", "Easy-35/select_0002")):
        write_video(davsod / kind / "Imgs", davsod / kind / "GT_object_level", video, 4, suffix=".png")

    visal = made["visal"] = root / "visal"
    for video, kind in enumerate(("bird", "motorcross")):
        write_video(visal / kind / "Imgs", visal / kind / "GT_object_level", video, 4, every=3)

    objects = made["youtube-objects"] = root / "objects"
    for video, kind in enumerate(("aeroplane/data/0001/shots/001", "train/data/0012/shots/003")):
        for frame in range(4):
            write_picture(objects / kind / "images" / f"{frame:05d}.png", frame_picture(video, frame))
            if frame % 2 == 0:  # masks of this data set are JPEG files
                mask = object_mask(frame).astype(np.uint8) * 255
                write_picture(objects / kind / "labels" / f"{frame:05d}.jpg", mask)

    fbms = made["fbms"] = root / "fbms"
    for frame in range(4):
        write_picture(fbms / "Trainingset/cars1" / f"cars1_{frame + 1:02d}.jpg", frame_picture(0, frame))
        write_picture(fbms / "Testset/goats01" / f"goats01_{frame + 1:04d}.jpg", frame_picture(1, frame))
    for frame in (0, 3):
        grey = object_mask(frame).astype(np.uint8) * 100
        write_picture(fbms / "Trainingset/cars1/GroundTruth" / f"{frame + 1:03d}_gt.pgm", grey)
        colours = np.where(object_mask(frame)[..., None], [200, 0, 0], [255, 255, 255]).astype(np.uint8)
        truth = fbms / "Testset/goats01/GroundTruth"
        write_picture(truth / f"goats01_{frame + 1:04d}_gt.ppm", colours)
        write_picture(truth / f"goats01_{frame + 1:04d}_gt.pgm", colours[..., 0])  # a rendering that is not meant
        write_picture(truth / f"PROB_goats01_{frame + 1:04d}_gt.ppm", colours)
    return made


def cut_off(path: Path) -> None:
    """Leave the first half of a file, as an interrupted copy does."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def damage(path: Path) -> None:
    """Take a piece out of the middle of a file; its two ends stay, so that only decoding can tell."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[-12:])


def save_jpeg(path: Path, picture: np.ndarray, subsampling: int) -> None:
    """JPEG with a chosen subsampling of colours (0: none, 2: halved both ways)."""
    Image.fromarray(picture).save(path, quality=90, subsampling=subsampling)


def noise_scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An RGB picture with detail at all scales, as photographs have."""
    rng = np.random.default_rng(seed)
    levels = [rng.normal(0, 60, (max(height >> n, 2), max(width >> n, 2), 3)) for n in range(6)]
    scene = sum(cv2.resize(level, (width, height), interpolation=cv2.INTER_CUBIC) / 2 for level in levels)
    return np.clip(128 + scene, 0, 255).astype(np.uint8)
