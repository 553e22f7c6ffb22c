"""One byte altered anywhere between approval and audio: refused, and the message says where (SCR-1)."""

import os
import shutil
from pathlib import Path

import pytest

from ari_app.errors import PromptAltered
from ari_app.prompts import Catalogue, Seal, approval_of, read_source, rows, seal_text, sha256, verify

CATALOGUE = """
[speech]
pipeline = 1
model = "m"
voice = "zf_xiaobei"
speed = 1.0
voices.zf_xiaobei = "v"

[readings]
"应诉" = "ying4 su4"

[[composition]]
id = "hold-music"
version = 1

[[sentence]]
id = "opening"
section = "opening"
text = "您好，欢迎致电法辅在线。"
approved.operations = "-"
approved.legal = "-"
approved.quality = "-"

[[sentence]]
id = "summons"
section = "solution"
text = "请按时应诉。"
approved.operations = "-"
approved.legal = "-"
approved.quality = "-"

[[family]]
id = "wait-{minutes}"
section = "solution"
text = "预计还需等待{minutes}分钟。"
variables.minutes = { numbers = [1, 12], spelt = "quantity" }
approved.operations = "-"
approved.legal = "-"
approved.quality = "-"
"""


def approve(folder: Path) -> None:
    """All three roles approve what catalogue.toml says now."""
    file = folder / "catalogue.toml"
    source = read_source(file)
    blocks = file.read_text(encoding="utf-8").split("\n\n")
    for wording in (*source.sentence, *source.family):
        at = next(n for n, block in enumerate(blocks) if f'id = "{wording.id}"' in block)
        lines = [
            f'{line.split(" = ")[0]} = "{approval_of(wording)}"' if line.startswith("approved.") else line
            for line in blocks[at].split("\n")
        ]
        blocks[at] = "\n".join(lines)
    file.write_text("\n\n".join(blocks), encoding="utf-8")


def seal(folder: Path) -> None:
    """Stands in for rendering: some audio for each prompt, sealed."""
    seals = {}
    for prompt in Catalogue.inspect(folder).values():
        audio = (prompt.id.encode() * 1600)[:1600]
        prompt.file.parent.mkdir(exist_ok=True)
        prompt.file.write_bytes(audio)
        seals[prompt.id] = Seal(sha256(prompt.text.encode()), sha256(audio), 0.2, prompt.source, prompt.key)
    (folder / "seal.toml").write_text(seal_text(seals), encoding="utf-8")


def alter(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "catalogue.toml").write_text(CATALOGUE, encoding="utf-8")
    approve(tmp_path)
    seal(tmp_path)
    return tmp_path


def test_a_catalogue_as_approved_and_sealed_loads(folder: Path) -> None:
    catalogue = Catalogue.load(folder)
    assert len(catalogue) == 15
    assert catalogue["opening"].text == "您好，欢迎致电法辅在线。"
    assert catalogue["opening"].seconds == 0.2
    assert catalogue.media("opening") == f"sound:{folder}/audio/opening"
    assert catalogue.media("hold-music") == f"sound:{folder}/audio/hold-music"
    assert verify(folder) == []
    assert {row.state for row in rows(folder)} == {"sealed"}


def test_wording_altered_by_one_character_is_refused(folder: Path) -> None:
    alter(folder / "catalogue.toml", "欢迎致电", "欢迎来电")
    with pytest.raises(PromptAltered, match=r"'opening', wording: .*operations, legal, quality.*approved\.op"):
        Catalogue.load(folder)


def test_wording_approved_by_two_of_three_is_refused(folder: Path) -> None:
    text = read_source(folder / "catalogue.toml").sentence[0].approved["legal"]
    alter(folder / "catalogue.toml", f'approved.legal = "{text}"', 'approved.legal = ""')
    with pytest.raises(PromptAltered, match=r"'opening', wording: it is not what legal approved"):
        Catalogue.load(folder)


def test_a_role_nobody_knows_approves_nothing(folder: Path) -> None:
    alter(folder / "catalogue.toml", "approved.legal", "approved.intern")
    assert {finding.part for finding in verify(folder)} == {"wording", "catalogue"}


@pytest.mark.parametrize(("old", "new"), [("等待{", "等候{"), ("[1, 12]", "[1, 13]"), ("quantity", "ordinal")])
def test_a_family_is_approved_as_all_it_says(folder: Path, old: str, new: str) -> None:
    alter(folder / "catalogue.toml", old, new)
    with pytest.raises(PromptAltered, match=r"'wait-\{minutes\}', wording: .*approved"):
        Catalogue.load(folder)


def test_new_wording_approved_but_not_rendered_is_refused(folder: Path) -> None:
    alter(folder / "catalogue.toml", "欢迎致电", "欢迎来电")
    approve(folder)
    with pytest.raises(PromptAltered, match=r"'opening', wording: the audio speaks another wording\. Render it"):
        Catalogue.load(folder)


@pytest.mark.parametrize(
    ("old", "new", "id"),
    [
        ("ying4 su4", "ying1 su4", "summons"),
        ("speed = 1.0", "speed = 0.9", "opening"),
        ("pipeline = 1", "pipeline = 2", "opening"),
        ("version = 1", "version = 2", "hold-music"),
    ],
)
def test_audio_made_of_something_else_is_refused(folder: Path, old: str, new: str, id: str) -> None:
    alter(folder / "catalogue.toml", old, new)
    with pytest.raises(PromptAltered, match=rf"'{id}', seal: voice, speed, reading or recording changed"):
        Catalogue.load(folder)


def test_a_reading_touches_only_the_prompts_it_occurs_in(folder: Path) -> None:
    alter(folder / "catalogue.toml", "ying4 su4", "ying1 su4")
    assert [finding.id for finding in verify(folder)] == ["summons"]


@pytest.mark.parametrize("at", [0, 800, 1599])
@pytest.mark.parametrize("id", ["opening", "wait-2", "hold-music"])
def test_one_byte_of_audio_altered_is_refused(folder: Path, id: str, at: int) -> None:
    file = Catalogue.load(folder).audio(id)
    audio = bytearray(file.read_bytes())
    audio[at] ^= 1
    file.write_bytes(audio)
    with pytest.raises(PromptAltered, match=rf"'{id}', audio: {id}\.alaw is not what was sealed\. Restore it"):
        Catalogue.load(folder)


def test_a_byte_of_the_seal_altered_is_noticed(folder: Path) -> None:
    file = folder / "seal.toml"
    whole = file.read_bytes()
    for at in range(0, len(whole), 13):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert verify(folder), f"byte {at} of the seal was altered and nobody noticed"
    for line in whole.splitlines(keepends=True)[2:]:
        file.write_bytes(whole.replace(line, line.replace(b'audio = "', b'audio = "0', 1)))
        id = line.split(b" ")[0].decode()
        with pytest.raises(PromptAltered, match=f"'{id}', seal: its line in seal.toml was altered"):
            Catalogue.load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "audio" / "wait-7.alaw").unlink()
    with pytest.raises(PromptAltered, match=r"'wait-7', audio: there is no file wait-7\.alaw\. Restore it"):
        Catalogue.load(folder)


def test_a_file_nobody_approved_is_named(folder: Path) -> None:
    (folder / "audio" / "greeting.alaw").write_bytes(b"\xd5" * 800)
    with pytest.raises(PromptAltered, match=r"'greeting', audio: greeting\.alaw belongs to no prompt"):
        Catalogue.load(folder)
    assert rows(folder)[-1].id == "greeting"


def test_a_sentence_taken_out_leaves_its_seal_and_file_behind(folder: Path) -> None:
    alter(folder / "catalogue.toml", "[1, 12]", "[1, 11]")
    approve(folder)
    assert [str(f) for f in verify(folder)] == [
        "Prompt 'wait-12', seal: seal.toml has it, catalogue.toml does not. Render it: `sanling prompts render`.",
        "Prompt 'wait-12', audio: wait-12.alaw belongs to no prompt. Remove the file.",
    ]


def test_a_sentence_that_is_there_twice_is_refused(folder: Path) -> None:
    alter(folder / "catalogue.toml", 'id = "summons"', 'id = "opening"')
    with pytest.raises(PromptAltered, match=r"'opening', catalogue: it is there twice"):
        Catalogue.load(folder)


def test_several_faults_are_counted(folder: Path) -> None:
    shutil.rmtree(folder / "audio")
    with pytest.raises(PromptAltered, match=r"And 14 more: `sanling prompts verify`"):
        Catalogue.load(folder)


def test_a_catalogue_never_rendered_says_to_render(folder: Path) -> None:
    shutil.rmtree(folder / "audio")
    (folder / "seal.toml").unlink()
    with pytest.raises(PromptAltered, match=r"'opening', audio: there is no file .* Render it"):
        Catalogue.load(folder)


@pytest.mark.parametrize("text", ["[[sentence]", '[[sentence]]\nid = "opening"\n', "\udcff"])
def test_a_catalogue_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "catalogue.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(PromptAltered, match=r"catalogue\.toml cannot be read"):
        Catalogue.load(tmp_path)


def test_no_catalogue_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptAltered, match="There is no catalogue of prompts"):
        Catalogue.load(tmp_path)


class TestWhateverHolds:
    """A controller that is started again among calls goes without a prompt rather than without callers."""

    def test_a_missing_file_is_left_out_and_plays_again_once_it_is_back(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = folder / "audio" / "opening.alaw"
        file.rename(folder / "kept")
        catalogue = Catalogue.load_whatever_holds(folder)
        assert catalogue.lacking == {"opening"}
        assert "'opening', audio: there is no file" in caplog.text
        assert "going on without 1 prompts: opening" in caplog.text
        with pytest.raises(PromptAltered, match="'opening', audio: there is no file"):
            catalogue.media("opening")
        assert catalogue.media("summons")
        (folder / "kept").rename(file)
        assert catalogue.media("opening")
        assert not catalogue.lacking

    def test_altered_audio_is_left_out(self, folder: Path) -> None:
        (folder / "audio" / "opening.alaw").write_bytes(b"\xd5" * 1600)
        catalogue = Catalogue.load_whatever_holds(folder)
        with pytest.raises(PromptAltered, match=r"'opening', audio: opening\.alaw is not what was sealed"):
            catalogue.media("opening")

    def test_wording_that_was_not_approved_is_not_played_whatever_it_is_sealed_with(self, folder: Path) -> None:
        alter(folder / "catalogue.toml", "欢迎致电", "欢迎来电")
        alter(folder / "catalogue.toml", "等待{", "等候{")
        seal(folder)
        catalogue = Catalogue.load_whatever_holds(folder)
        assert catalogue.lacking == {"opening", *(f"wait-{n}" for n in range(1, 13))}
        with pytest.raises(PromptAltered, match=r"'opening', wording: it is not what .* approved"):
            catalogue.media("opening")

    def test_a_line_of_the_seal_that_was_altered_costs_its_prompt(self, folder: Path) -> None:
        alter(folder / "seal.toml", "opening = { text", "opening = { txt")
        assert Catalogue.load_whatever_holds(folder).lacking == {"opening"}

    def test_what_is_lost_while_it_runs_counts_as_lacking(self, folder: Path) -> None:
        catalogue = Catalogue.load_whatever_holds(folder)
        assert not catalogue.lacking
        catalogue.audio("opening").unlink()
        with pytest.raises(PromptAltered):
            catalogue.media("opening")
        assert catalogue.lacking == {"opening"}

    @pytest.mark.parametrize("lost", ["audio", "seal.toml", "catalogue.toml"])
    def test_where_nothing_holds_it_is_refused_all_the_same(self, folder: Path, lost: str) -> None:
        (folder / lost).rename(folder / "kept")
        with pytest.raises(PromptAltered):
            Catalogue.load_whatever_holds(folder)


class TestPlayback:
    def test_a_file_altered_after_loading_is_refused_when_played(self, folder: Path) -> None:
        catalogue = Catalogue.load(folder)
        file = catalogue.audio("opening")
        file.write_bytes(b"\xd5" * 1600)
        os.utime(file, ns=(1, 1))
        with pytest.raises(PromptAltered, match=r"'opening', audio: opening\.alaw is not what was sealed"):
            catalogue.media("opening")
        assert catalogue.media("summons")
        assert catalogue.findings == []

    def test_a_file_removed_after_loading_is_refused_when_played(self, folder: Path) -> None:
        catalogue = Catalogue.load(folder)
        catalogue.audio("opening").unlink()
        with pytest.raises(PromptAltered, match=r"'opening', audio: there is no file"):
            catalogue.media("opening")

    def test_a_file_touched_but_the_same_plays(self, folder: Path) -> None:
        catalogue = Catalogue.load(folder)
        os.utime(catalogue.audio("opening"), ns=(1, 1))
        assert catalogue.media("opening").startswith("sound:/")


class TestHumanRecording:
    @pytest.fixture
    def recorded(self, folder: Path) -> Path:
        (folder / "overrides").mkdir()
        (folder / "overrides" / "opening.wav").write_bytes(b"RIFF, spoken by a person")
        return folder

    def speaks(self, folder: Path, text: str) -> None:
        (folder / "overrides" / "spoken.toml").write_text(f'opening = "{sha256(text.encode())}"\n')

    def test_it_takes_the_place_of_the_voice(self, recorded: Path) -> None:
        self.speaks(recorded, "您好，欢迎致电法辅在线。")
        with pytest.raises(PromptAltered, match=r"'opening', seal: .*recording changed.*Render"):
            Catalogue.load(recorded)
        seal(recorded)
        assert Catalogue.load(recorded)["opening"].source == "recording"

    def test_without_the_hash_of_what_it_speaks_it_is_refused(self, recorded: Path) -> None:
        seal(recorded)
        with pytest.raises(PromptAltered, match=r"'opening', recording: .*does not speak the approved wording"):
            Catalogue.load(recorded)

    def test_it_does_not_outlive_its_wording(self, recorded: Path) -> None:
        self.speaks(recorded, "您好，欢迎致电法辅在线。")
        alter(recorded / "catalogue.toml", "欢迎致电", "欢迎来电")
        approve(recorded)
        seal(recorded)
        with pytest.raises(PromptAltered, match=r"'opening', recording: .*Record it anew and write opening = "):
            Catalogue.load(recorded)

    def test_one_of_no_prompt_is_named(self, recorded: Path) -> None:
        self.speaks(recorded, "您好，欢迎致电法辅在线。")
        (recorded / "overrides" / "opening.wav").rename(recorded / "overrides" / "greeting.wav")
        with pytest.raises(PromptAltered, match=r"'greeting', recording: .*speaks no prompt"):
            Catalogue.load(recorded)

    def test_a_list_of_hashes_that_cannot_be_read_is_named(self, recorded: Path) -> None:
        (recorded / "overrides" / "spoken.toml").write_text("opening")
        with pytest.raises(PromptAltered, match=r"'spoken\.toml', recording: .*Write lines like"):
            Catalogue.load(recorded)
