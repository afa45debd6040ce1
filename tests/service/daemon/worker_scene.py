"""A worker process that does what the test says, seen from the daemon's side."""

from typing import ClassVar

from service.daemon.worker_process import WorkerProcess
from service.processes.messages import Progress, Up, Work
from streamer.movie_record import Times
from streamer.records import Instructions
from tests.clocks import SetClock
from tests.service_samples import UTC, make_movie


class FakeChild:
    """Says what it is told to say, and remembers what it was sent."""

    made: ClassVar[list] = []

    def __init__(self, module, begin, *, threads):
        self.alive, self.sent, self.says, self.killed = True, [], [], False
        self.pid, self.ending = 1, "exit status 70"
        FakeChild.made.append(self)

    def send(self, message):
        self.sent.append(message)

    def receive(self):
        says, self.says = self.says, []
        return says

    def fileno(self):
        return 0

    def kill(self):
        self.alive, self.killed = False, True

    def stop(self, timeout_s):
        self.alive = False


class WorkerScene:
    """A worker process with its clock, what it reported, and the memory that its child is seen to have."""

    def __init__(self, journal, config):
        self.journal, self.clock, self.gib = journal, SetClock(100.0), 0.0
        self.finished, self.failed, self.restarted, self.asked = [], [], [], []
        self.process = WorkerProcess(
            config,
            journal,
            threads=1,
            work_of=lambda movie: self.work_of(movie),
            finished=self.finished.append,
            failed=self.failed.append,
            restarted=lambda *report: self.restarted.append(report),
            clock=self.clock,
        )
        self.process.start()

    def work_of(self, movie):
        return Work(movie=movie.movie, times=Times(), instructions=Instructions(session_directory="/o"))

    @property
    def child(self):
        """The process that was started last."""
        return FakeChild.made[-1]

    def say(self, *messages):
        self.child.says += messages
        self.process.attend()

    def state(self, relative):
        """The movie as the journal has it."""
        return next(movie for movie in self.journal.movies.newest() if movie.relative == relative)

    def resident(self, pid):
        self.asked.append((self.clock.now, pid))
        return int(self.gib * 2**30)

    def arrive(self, *names):
        movies = [make_movie(f"grid1/{name}.tif", inode=number) for number, name in enumerate(names, 1)]
        for movie in movies:
            self.journal.add_ready(movie, UTC, UTC)
        return movies

    def give(self, *names, begun=True):
        """Let the worker have these movies in hand."""
        self.say(Up(device="cpu", threads=1))
        movies = self.arrive(*names)
        for movie in movies:
            assert self.process.dispatch()
            if begun:
                self.say(Progress(movie_id=movie.movie_id, revision=1, stage="fuse"))
        return movies
