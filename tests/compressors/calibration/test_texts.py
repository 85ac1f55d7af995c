import pytest
import torch

from vq.compressors.calibration.texts import choose_windows, load_tokenizer, read_texts, tokenize
from vq.errors import VqError


def test_windows_are_pieces_of_the_text_spread_over_it():
    tokens = torch.arange(1000)
    windows = choose_windows(tokens, 8, 50, seed=3).tokens
    starts = windows[:, 0]
    assert torch.equal(windows, starts[:, None] + torch.arange(50))
    assert bool((starts.diff() >= 50).all())
    assert all(i * 125 <= int(s) <= (i + 1) * 125 - 50 for i, s in enumerate(starts))


def test_windows_follow_the_seed():
    tokens = torch.arange(1000)
    first = choose_windows(tokens, 4, 50, seed=0)
    assert choose_windows(tokens, 4, 50, seed=0).digest == first.digest
    assert choose_windows(tokens, 4, 50, seed=1).digest != first.digest


def test_short_text_gives_fewer_windows_and_says_so():
    with pytest.warns(UserWarning, match="105 tokens: 2 windows of 50 instead of 8"):
        windows = choose_windows(torch.arange(105), 8, 50)
    assert windows.tokens.shape == (2, 50)


def test_text_of_exactly_one_window():
    assert torch.equal(choose_windows(torch.arange(50), 1, 50).tokens, torch.arange(50)[None])


def test_text_shorter_than_a_window_gives_the_numbers():
    with pytest.raises(VqError, match="49 tokens, shorter than one context of 50"):
        choose_windows(torch.arange(49), 8, 50)


def test_folders_stand_for_their_texts_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "c.md").write_text("no")
    assert read_texts(tmp_path) == ["one", "two"]
    assert read_texts([tmp_path / "b.txt", tmp_path / "c.md"]) == ["two", "no"]


def test_bad_texts_are_named(tmp_path):
    with pytest.raises(VqError, match=r"nowhere\.txt: no such file"):
        read_texts(tmp_path / "nowhere.txt")
    with pytest.raises(VqError, match=r"holds no \.txt file"):
        read_texts(tmp_path)
    (tmp_path / "a.txt").write_text("  \n")
    with pytest.raises(VqError, match="empty"):
        read_texts(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(VqError, match=r"a\.txt: expected UTF-8"):
        read_texts(tmp_path)


@pytest.mark.hf
def test_tokens_of_several_texts_follow_each_other(llama):
    tokens = tokenize(["w0 w5", "w2"], load_tokenizer(llama))
    assert tokens.tolist() == [1, 6, 3]


@pytest.mark.hf
def test_folder_without_tokenizer(tmp_path):
    with pytest.raises(VqError, match=r"no usable tokenizer.*tokenizer\.json"):
        load_tokenizer(tmp_path)
