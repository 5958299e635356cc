"""The follower of a campaign: one process that mirrors all its runs, each exactly as the follower of a run would.

    manifest.json ── which runs ──▶ roster ──▶ a desk for each tracker ──▶ the campaign's own run, then its runs

Each run keeps its own watermarks and its own lock, so that `retrain sync RUN` works too. A run that is over and sent
leaves the roster, and costs nothing until the manifest says something new about it. One desk is one thread: a tracker
that fails, or hangs, does not stop another, and one run that cannot be sent does not stop the others.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from retrain.errors import RetrainError
from retrain.tracking.figures import Gallery
from retrain.tracking.folder import CampaignFolder, Ending, RunFolder
from retrain.tracking.follower import (
    CLAIM_SECONDS,
    MAX_DELAY_SECONDS,
    PATIENCE_SECONDS,
    POLL_SECONDS,
    SYNC_TIMEOUT_SECONDS,
    Mirror,
    mirrors,
    sync,
)
from retrain.tracking.parent import ParentSink
from retrain.tracking.uri import OFF
from retrain.tracking.watermark import Sent, claim, pending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from retrain.tracking.figures import Figures
    from retrain.tracking.manifest import Entry, Manifest

LINGER_SECONDS = 1.5  # after the end, with everything sent: the last report is written just then
ROOM = 64  # runs at a time: each holds a lock, which is an open file

log = logging.getLogger("retrain.tracking")


@dataclass
class Post:
    """One directory at one tracker's desk."""

    name: str
    mirror: Mirror
    settled: str = ""  # key of the ending after which nothing is left to do: all is sent, or it was given up
    delay: float = 0.0  # seconds to the next attempt; 0 while it works
    due: float = 0.0  # monotonic seconds
    failing_since_end: float | None = None


@dataclass
class Member:
    """A run that is being mirrored, and the right to do so."""

    entry: Entry
    folder: RunFolder
    figures: Figures
    posts: list[Post]
    right: contextlib.ExitStack = field(repr=False)
    inode: int  # of its directory, which may be put aside for a new beginning

    def exists(self) -> bool:
        """False once its directory is gone, or is another one by the same name."""
        try:
            return self.folder.dir.stat().st_ino == self.inode and self.folder.exists()
        except FileNotFoundError:
            return False


class Desk(threading.Thread):
    """Brings one tracker up to date with everything on the roster, again and again, with back-off while it fails."""

    def __init__(self, name: str, campaign: CampaignFolder, patience: float) -> None:
        super().__init__(name=name, daemon=True)
        self.campaign, self.patience = campaign, patience
        self.posts: list[Post] = []  # replaced as a whole by the roster, never changed
        self.stopped = threading.Event()
        self._delay = 0.0  # seconds to the next attempt at anything; 0 while the tracker works
        self._failing_since_end: float | None = None  # while nothing at all has worked

    def run(self) -> None:
        while not self.stopped.is_set():
            now = time.monotonic()
            for post in sorted(self.posts, key=lambda one: one.due):
                if self.stopped.is_set() or (post.due <= now and not self._attend(post)):
                    break  # the tracker may be down: one attempt at a time, each time another run's
            self.stopped.wait(max(self._delay, POLL_SECONDS))

    def _attend(self, post: Post) -> bool:
        """Bring one directory up to date; False when that failed."""
        before = post.mirror.sent.step
        try:
            ending = post.mirror.catch_up()
        except Exception as error:  # noqa: BLE001  whatever a tracker raises, the other runs and trackers go on
            if post.mirror.folder.exists():
                self._back_off(post, error, moved=post.mirror.sent.step > before)
            return False
        settled = ending.key if ending else ""
        if post.delay or post.mirror.sent.step > before or post.settled != settled:  # else nothing had to be sent
            self._works(post)
        post.settled = settled
        return True

    def _works(self, post: Post) -> None:
        """Take back what failures have changed; one that works again shows that others may."""
        was_failing, now = post.delay > 0, time.monotonic()
        post.delay, post.due, post.failing_since_end = 0.0, 0.0, None
        self._delay, self._failing_since_end = 0.0, None
        if was_failing:
            for one in self.posts:
                one.due = min(one.due, now)
            if not any(one.delay for one in self.posts):
                log.info("%s: caught up", self.name)

    def _back_off(self, post: Post, error: Exception, *, moved: bool) -> None:
        """Say the first failure, wait 1, 2, 4 … 60 s; settle for it when the campaign has been over for too long."""
        problem, now = post.mirror.failed(error), time.monotonic()
        if self._delay == 0.0 and post.delay == 0.0:
            log.warning("%s: %s: %s; trying again until it works", self.name, post.name, problem)
        post.delay = 1.0 if moved else min(max(1.0, 2 * post.delay), MAX_DELAY_SECONDS)
        self._delay = 1.0 if moved else min(max(1.0, 2 * self._delay), MAX_DELAY_SECONDS)
        post.due = now + post.delay
        if not self._is_over():
            post.failing_since_end = self._failing_since_end = None
            return
        self._delay = min(self._delay, max(self.patience, POLL_SECONDS))
        post.failing_since_end = post.failing_since_end or now
        self._failing_since_end = self._failing_since_end or now
        if now - self._failing_since_end > self.patience:
            self._give_up(self.posts)
        elif now - post.failing_since_end > self.patience:
            self._give_up([post])

    def _give_up(self, posts: list[Post]) -> None:
        unsettled = 0
        for post in posts:
            if (ending := _ending(post.mirror.folder)) is not None and post.settled != ending.key:
                post.settled = ending.key
                unsettled += 1
        if unsettled:
            root = self.campaign.dir
            log.warning("%s: gave up, %d directories are not sent whole; retrain sync %s", self.name, unsettled, root)

    def _is_over(self) -> bool:
        try:
            return self.campaign.manifest().is_over
        except RetrainError:
            return True


class Roster:
    """Which runs are mirrored now: those that go on, and those of which something is not sent yet."""

    def __init__(self, campaign: CampaignFolder, patience: float) -> None:
        self.campaign, self.patience = campaign, patience
        self.members: dict[str, Member] = {}
        self.gallery = Gallery()
        self.desks: dict[str, Desk] = {}
        self._left: dict[str, Entry] = {}  # runs that are not mirrored any more, as the manifest had them then
        self._waiting: list[Entry] = []  # runs that may begin
        self._read: Manifest | None = None
        self._parent: Post | None = None
        if campaign.manifest().tracking_uri != OFF:
            sent = Sent.load(campaign.dir, "mlflow")
            self._parent = Post(campaign.manifest().name, Mirror(campaign, ParentSink(campaign, sent), sent))
        self._show()

    def update(self) -> None:
        """Take on the runs that have begun, and let those go that are over and sent."""
        manifest = self.campaign.manifest()
        if manifest is not self._read:
            self._read = manifest
            self._waiting = [
                entry
                for entry in manifest.runs
                if entry.name not in self.members and self._left.get(entry.name) != entry
            ]
            for entry in manifest.runs:
                if entry.name in self.members:
                    self.members[entry.name].entry = entry
        begun = [entry for entry in self._waiting if (self.campaign.dir / entry.directory / "run.json").exists()]
        changed = [self._take(entry, manifest) for entry in begun[: max(0, ROOM - len(self.members))]]
        changed += [self._let_go(member, manifest) for member in list(self.members.values())]
        if any(changed):
            self._show()

    def is_settled(self) -> bool:
        """Whether everything is sent that can be: call it when the campaign is over."""
        parent = self._parent
        return not self.members and (parent is None or parent.settled == _key(self.campaign))

    def _take(self, entry: Entry, manifest: Manifest) -> bool:
        directory, right = self.campaign.dir / entry.directory, contextlib.ExitStack()
        try:
            if not right.enter_context(claim(directory, 0.0)):  # somebody resumes or syncs this run by itself
                if manifest.is_over:
                    self._waiting.remove(entry)
                return False
            folder = RunFolder(directory)
            figures, inode = self.gallery.figures(folder), directory.stat().st_ino
            posts = [Post(entry.name, mirror) for mirror in mirrors(directory, figures)]
        except (RetrainError, OSError) as error:
            right.close()
            log.warning("%s is left out: %s", entry.name, error)
            self._waiting.remove(entry)
            self._left[entry.name] = entry
            return False
        self._waiting.remove(entry)
        self.members[entry.name] = Member(entry, folder, figures, posts, right, inode)
        return True

    def _let_go(self, member: Member, manifest: Manifest) -> bool:
        """Let a run go when nobody may write there any more and the trackers know everything; True when it has gone."""
        is_there = member.exists()
        if is_there:
            ending = _ending(member.folder)
            unsettled = ending is None or any(post.settled != ending.key for post in member.posts)
            if unsettled or not (member.entry.is_over or manifest.is_over):
                return False
            member.figures.draw()
            if _ending(member.folder) != ending:  # it was resumed meanwhile
                return False
        member.right.close()
        self.gallery.forget(member.figures)
        del self.members[member.entry.name]
        if is_there:
            self._left[member.entry.name] = member.entry
        else:
            self._waiting.append(member.entry)
        return True

    def _show(self) -> None:
        """Put the posts on the desks, and open a desk for a tracker that has none yet: the campaign's own run first."""
        posts = [self._parent] if self._parent is not None else []
        posts += [post for member in self.members.values() for post in member.posts]
        for name in {post.mirror.sink.name for post in posts} - self.desks.keys():
            self.desks[name] = Desk(name, self.campaign, self.patience)
        for name, desk in self.desks.items():
            desk.posts = [post for post in posts if post.mirror.sink.name == name]
            if desk.ident is None:
                desk.start()

    def close(self) -> None:
        for desk in self.desks.values():
            desk.stopped.set()
        for member in self.members.values():
            member.right.close()


def follow_campaign(directory: Path, patience: float = PATIENCE_SECONDS) -> None:
    """Mirror a campaign until it is over and everything is sent; leave at once when another process does it already.

    A campaign that is resumed meanwhile is followed on: its own new follower has found this one at work, and left.

    Raises:
        ConfigError: `directory` holds no campaign.
    """
    campaign = CampaignFolder(directory)
    campaign.manifest()
    with claim(directory, CLAIM_SECONDS) as held:
        if not held:
            return
        roster, quiet_since = Roster(campaign, patience), None
        with contextlib.closing(roster):
            while campaign.exists() and all(desk.is_alive() for desk in roster.desks.values()):
                roster.update()
                quiet = campaign.manifest().is_over and roster.is_settled()
                quiet_since = (quiet_since or time.monotonic()) if quiet else None
                if quiet_since is not None and time.monotonic() - quiet_since >= LINGER_SECONDS:
                    break
                roster.gallery.draw_if_due()
                time.sleep(POLL_SECONDS)


def sync_campaign(directory: Path, report: Callable[[str], None]) -> bool:
    """Send what the trackers miss of a campaign, once; True when they have everything.

    Raises:
        ConfigError: `directory` holds no campaign.
    """
    campaign = CampaignFolder(directory)
    manifest, missing = campaign.manifest(), pending(directory)
    with claim(directory, CLAIM_SECONDS) as held:
        if not held:
            report(f"a follower is sending {directory} right now; nothing to do here")
            return not missing
        if manifest.tracking_uri != OFF:
            sent = Sent.load(campaign.dir, "mlflow")
            mirror = Mirror(campaign, ParentSink(campaign, sent, SYNC_TIMEOUT_SECONDS), sent)
            try:
                mirror.catch_up()
                report(f"mlflow: {manifest.name} is up to date")
            except Exception as error:  # noqa: BLE001  its runs still get their turn
                report(f"mlflow: {manifest.name}: {mirror.failed(error)}")
        complete = 0
        for name, run_dir in _begun(campaign):
            try:
                complete += not pending(run_dir) or sync(run_dir, lambda text, name=name: report(f"{name}: {text}"))
            except RetrainError as error:
                report(f"{name}: {error}")
        report(f"{complete} of {len(manifest.runs)} runs are sent as far as they have come")
    return not pending(directory)


def _begun(campaign: CampaignFolder) -> Iterator[tuple[str, Path]]:
    for entry in campaign.manifest().runs:
        run_dir = campaign.dir / entry.directory
        if (run_dir / "run.json").exists():
            yield entry.name, run_dir


def _ending(folder: RunFolder | CampaignFolder) -> Ending | None:
    """How it ended; None where it goes on, or where that cannot be read now."""
    try:
        return folder.ending()
    except (RetrainError, OSError):
        return None


def _key(folder: CampaignFolder) -> str:
    ending = _ending(folder)
    return ending.key if ending is not None else ""
