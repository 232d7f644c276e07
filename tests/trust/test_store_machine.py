"""The store of stages against a dictionary: written, cut off anywhere, reopened, damaged, forgotten, in any order.

A cut is a forked process that leaves at once, before the n-th thing that it does to a file: nothing is cleaned up.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from crash import DIED, Watch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cytoclr.stages import StageFolder

STAGES = ("crop", "train", "embed")
#: The layouts a stage may have: other settings, other files.
LAYOUTS = (("a/one", "a/two", "table"), ("a/one", "table"), ("b/one", "b/deep/two"))

#: A disk in memory: what is tested is the order of acts, not the disk.
FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None

Version = tuple[int, int]


class StoreMachine(RuleBasedStateMachine):
    """`model` has, by stage, the version that a reader must find; None: it is not told, for a cut has left it open."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=FAST))
        self.store = StageFolder(self.folder)
        self.model: dict[str, Version] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def write(self, stage: str, version: Version) -> None:
        def work(place: Path) -> dict[str, int]:
            for name, content in list_files(stage, version).items():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_text(content)
            return {"layout": version[0]}

        self.store.finish(stage, {"version": list(version)}, work)

    @rule(stage=st.sampled_from(STAGES), layout=st.integers(0, 2), number=st.integers(0, 2))
    def finish(self, stage: str, layout: int, number: int) -> None:
        self.write(stage, (layout, number))
        self.model[stage] = (layout, number)

    @rule(stage=st.sampled_from(STAGES), layout=st.integers(0, 2), number=st.integers(0, 2), n=st.integers(0, 60))
    def cut(self, stage: str, layout: int, number: int, n: int) -> None:
        """Begin to write, and be gone before the n-th act; who comes next sees the old, the new, or neither."""
        child = os.fork()
        if child == 0:
            Watch(self.folder).act_at(n, "deaths")
            self.write(stage, (layout, number))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in {0, DIED}
        before = self.model.pop(stage, None)
        for version in (before, (layout, number)):
            if version is not None and self.store.is_finished(stage, {"version": list(version)}):
                self.model[stage] = version
        if code == 0:
            assert self.model[stage] == (layout, number)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """Flip a bit; it is named, and mended by forgetting."""
        stage = data.draw(st.sampled_from(sorted(self.model)))
        name = data.draw(st.sampled_from(sorted(list_files(stage, self.model[stage]))))
        path = self.folder / name
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        assert self.store.find_damage() == {stage: [f"{name}: other bytes than were written"]}
        self.store.forget(stage)
        self.write(stage, self.model[stage])

    @rule(stage=st.sampled_from(STAGES))
    def forget(self, stage: str) -> None:
        self.store.forget(stage)
        self.model.pop(stage, None)

    @invariant()
    def what_is_finished_is_whole(self) -> None:
        assert self.store.find_damage() == {}
        for stage, version in self.model.items():
            assert self.store.is_finished(stage, {"version": list(version)})
            for name, content in list_files(stage, version).items():
                assert (self.folder / name).read_text() == content

    @invariant()
    def nothing_is_left_over_once_all_is_finished(self) -> None:
        if set(self.model) != set(STAGES):
            return
        for stage, version in self.model.items():
            self.write(stage, version)  # finds it finished, and sweeps
        expected = {name for stage, version in self.model.items() for name in list_files(stage, version)}
        found = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}
        assert found == expected | {f"manifests/{stage}.json" for stage in STAGES}


def list_files(stage: str, version: Version) -> dict[str, str]:
    """What a version of a stage has, and what is in it: stages share no name."""
    return {f"{stage}-{name}": f"{stage} {version} {name}" for name in LAYOUTS[version[0]]}


TestStore = pytest.mark.promise(
    "Kill and power",
    "The store of stages, written, cut off anywhere, damaged and reopened in any order, is as a dictionary",
)(StoreMachine.TestCase)
TestStore.settings = settings(
    max_examples=60, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
