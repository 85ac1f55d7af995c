from __future__ import annotations

import collections
import itertools
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from vq.errors import VqError
from vq.tokenizers.audio import loudness
from vq.tokenizers.data import Fixed, Pieces, Steps, fill, mix, to_float
from vq.tokenizers.source import inspect

FILES = [Path(str(n)) for n in range(5)]


def numbered(path: Path) -> torch.Tensor:
    """A picture whose pixels say file, row and column."""
    file = int(path.name)
    rows, columns = torch.meshgrid(torch.arange(9 + file), torch.arange(20), indexing="ij")
    return torch.stack([torch.full_like(rows, file), rows, columns]).float()


def test_mix_spreads_and_repeats():
    seeds = {mix(a, b) for a in range(100) for b in range(100)}
    assert len(seeds) == 10_000 and mix(1, 2) != mix(2, 1) and mix(3, 4) == mix(3, 4)
    assert all(0 <= s < 2**63 for s in seeds)
    ones = sum(bin(s).count("1") for s in seeds) / len(seeds)
    assert ones == pytest.approx(31.5, abs=0.2)


def test_mix_is_splitmix64():
    """First output of SplitMix64 seeded with 0, from the paper's constants; ours drops the last bit."""
    assert mix(0) == 0xE220A8397B1DCDAF >> 1


def test_items_depend_on_seed_and_number_alone():
    a = Pieces(FILES, numbered, (8, 8), seed=1)
    b = Pieces(FILES, numbered, (8, 8), seed=1, cache_bytes=0)
    forwards = [a[n] for n in range(30)]
    backwards = [b[n] for n in reversed(range(30))][::-1]
    for x, y in zip(forwards, backwards, strict=True):
        assert torch.equal(x, y)
    other = Pieces(FILES, numbered, (8, 8), seed=2)
    assert any(not torch.equal(x, other[n]) for n, x in enumerate(forwards))


def test_the_global_generator_stays():
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    _ = Pieces(FILES, numbered, (8, 8))[3]
    assert torch.equal(torch.rand(()), expected)


def test_an_epoch_visits_each_file_by_its_shares_in_a_new_order():
    pieces = Pieces(FILES, numbered, (8, 8), shares=[1, 2, 3, 1, 1])
    assert pieces.epoch_items == 8
    epochs = [[pieces.file_of(8 * epoch + n) for n in range(8)] for epoch in range(4)]
    for epoch in epochs:
        assert collections.Counter(epoch) == {0: 1, 1: 2, 2: 3, 3: 1, 4: 1}
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_pieces_are_windows_of_the_file_everywhere():
    pieces = Pieces(FILES[:1], numbered, (8, 8))
    places = set()
    for n in range(300):
        piece = pieces[n]
        row, column = int(piece[1, 0, 0]), int(piece[2, 0, 0])
        assert torch.equal(piece, numbered(FILES[0])[:, row : row + 8, column : column + 8])
        places.add((row, column))
    assert places == set(itertools.product(range(2), range(13)))


def test_half_of_the_pieces_are_mirrored():
    pieces = Pieces(FILES, numbered, (8, 8), flip=True)
    flipped = sum(bool(pieces[n][2, 0, 0] > pieces[n][2, 0, 1]) for n in range(400))
    assert 160 < flipped < 240


def test_the_cache_stops_at_its_bound():
    reads = []

    def counting(path: Path) -> torch.Tensor:
        reads.append(path)
        return numbered(path)

    size = numbered(FILES[4]).nbytes
    pieces = Pieces(FILES, counting, (8, 8), cache_bytes=2 * size)
    for n in range(50):
        _ = pieces[n]
    assert sum(t.nbytes for t in pieces._cache.values()) <= 2 * size
    seen = collections.Counter(reads)
    assert sorted(seen.values())[:2] == [1, 1] and max(seen.values()) > 5


def test_small_pictures_are_mirrored_and_short_sounds_end_in_silence():
    x = torch.arange(3.0).reshape(1, 1, 3)
    assert fill(x, (2, 8))[0, 1].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert fill(torch.tensor([[1.0, 2.0]]), (4,)).tolist() == [[1, 2, 0, 0]]
    one = torch.full((3, 1, 1), 5.0)
    assert torch.equal(fill(one, (2, 2)), torch.full((3, 2, 2), 5.0))
    assert fill(x, (1, 2)).shape == (1, 1, 3)


def test_bytes_become_minus_one_to_one():
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]
    assert to_float(torch.tensor([0.5], dtype=torch.float64)).dtype == torch.float32


def test_steps_from_anywhere_and_split_over_processes():
    def first(steps, count=3):
        return list(itertools.islice(iter(steps), count))

    assert first(Steps(2, lambda: 0)) == [[0, 1], [2, 3], [4, 5]]
    assert first(Steps(2, lambda: 2)) == [[4, 5], [6, 7], [8, 9]]
    parts = [first(Steps(2, lambda: 1, rank, 2)) for rank in range(2)]
    assert parts == [[[4, 5], [8, 9], [12, 13]], [[6, 7], [10, 11], [14, 15]]]


def test_a_loader_with_workers_gives_the_same_batches():
    def batches(workers):
        pieces = Pieces(FILES, numbered, (8, 8), flip=True)
        loader = DataLoader(pieces, batch_sampler=Steps(3, lambda: 4), num_workers=workers)
        return list(itertools.islice(loader, 4))

    for a, b in zip(batches(0), batches(2), strict=True):
        assert torch.equal(a, b)


def test_fixed_items_repeat():
    items = torch.arange(3.0)
    assert [float(Fixed(items)[n]) for n in range(5)] == [0, 1, 2, 0, 1]


def test_wrong_pieces():
    with pytest.raises(ValueError, match="at least one file"):
        Pieces([], numbered, (8, 8))
    with pytest.raises(ValueError, match="shares"):
        Pieces(FILES, numbered, (8, 8), shares=[1])


def test_a_folder_of_pictures(photos, image_recipe):
    source = inspect(photos, image_recipe())
    assert len(source.folder.train) + len(source.held_out) == 6
    assert set(source.shares(image_recipe())) == {1}
    fixed = source.fixed(image_recipe(), 7)
    assert fixed.shape == (7, 3, 16, 16) and fixed.abs().max() <= 1
    assert torch.equal(fixed, source.fixed(image_recipe(), 7))
    values = torch.cat([source.load(item.path).flatten() for item in source.held_out])
    assert set(((fixed + 1) * 127.5).round().long().unique().tolist()) <= set(values.tolist())


def test_a_folder_of_sounds_is_visited_by_length(sounds, sound_recipe):
    source = inspect(sounds, sound_recipe())
    lengths = {f"s{n}.wav": n + 1 for n in range(4)}  # clips of 0.1 s
    assert source.shares(sound_recipe()) == [lengths[item.key] for item in source.folder.train]
    assert source.pieces(sound_recipe(), 0)[0].shape == (1, 800)


def test_sounds_are_brought_to_the_recipe_s_rate(sounds, sound_recipe):
    source = inspect(sounds, sound_recipe(sample_rate=16000))
    assert source.load(sounds / "s1.wav").shape == (1, 3200)


def test_sounds_are_brought_to_one_loudness_as_a_whole(sounds, sound_recipe):
    """The level is the file's, so that clips of it keep their proportions."""
    plain = inspect(sounds, sound_recipe())
    level = inspect(sounds, sound_recipe(normalisation="loudness"))
    for item in plain.folder.items:
        x, y = plain.load(item.path), level.load(item.path)
        assert loudness(y) == pytest.approx(-20, abs=1e-3)
        torch.testing.assert_close(y * x.square().mean().sqrt() / 0.1, x)


def test_pictures_are_scaled_to_resize(photos, image_recipe):
    source = inspect(photos, image_recipe(resize=20))
    assert source.load(photos / "p0.png").shape == (3, 20, 30)  # 40 x 60


def test_one_file_is_trained_on_and_measured(tmp_path, photos, image_recipe):
    (tmp_path / "only.png").write_bytes((photos / "p0.png").read_bytes())
    source = inspect(tmp_path, image_recipe())
    assert source.held_out and source.folder.train
    assert source.fixed(image_recipe(), 2).shape[0] == 2


def test_what_is_wrong_with_a_folder(tmp_path, photos, image_recipe, sound_recipe):
    with pytest.raises(VqError, match="no"):
        inspect(tmp_path / "no", image_recipe())
    with pytest.raises(VqError, match="no audio files here"):
        inspect(photos, sound_recipe())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(VqError, match=r"1 cannot be read: broken.png"):
        inspect(tmp_path, image_recipe())


def test_the_digest_knows_files_that_count(tmp_path, photos, image_recipe):
    for name in ("p0.png", "p1.png"):
        (tmp_path / name).write_bytes((photos / name).read_bytes())
    before = inspect(tmp_path, image_recipe()).digest
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert inspect(tmp_path, image_recipe()).digest == before
    (tmp_path / "p1.png").write_bytes((photos / "p2.png").read_bytes())
    assert inspect(tmp_path, image_recipe()).digest != before
