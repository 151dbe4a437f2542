"""A subtask: the operators of one stage, run over their inputs one batch at a time.

The subtask is a small machine with one rule: whatever it does is an iterator of output batches, and while that iterator
is unfinished nothing else is begun, no input, no watermark and no barrier. `step` does one bounded piece of work and
says whether there was any. All of it runs in the task thread.

Barriers are an exception only in part: they need no room in the outputs and no operator that takes records, but they too
wait for the iterator. Which inputs they hold back is the business of `alignment.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from checkdam.core.batch import MAX_TIME, MIN_TIME, Batch
from checkdam.core.errors import CheckdamError
from checkdam.operators.base import Operator
from checkdam.operators.source import SourceOperator
from checkdam.operators.user import user_error
from checkdam.worker.alignment import Alignment
from checkdam.worker.channels import BARRIER, DATA, END, IDLE, WATERMARK, Input, Output
from checkdam.worker.parts import Parts

QUANTUM_NS: Final = 20_000_000
"""After so long a step ends between two batches, so that control messages are looked at."""

SLOW_CALL_NS: Final = 100_000_000
"""A batch that took longer makes the next ones smaller."""

FAST_CALL_NS: Final = 25_000_000
"""A batch that took less lets the next ones grow again."""


_NOT_NOW: Final = Batch([])
"""Yielded where an operator in the middle of a chain takes no records now: go on when it has called `wake`."""


class Subtask:
    """One subtask of one stage.

    Attributes:
        ended: All input has ended and everything has been handed on.
        watermark_ms: The watermark of its input (of a source: what was read).
        woken: Set from any thread when an operator wants to be polled.
    """

    def __init__(self, parts: Parts) -> None:
        self.stage = parts.stage
        self.index = parts.index
        self.operators = parts.operators
        self.metrics = parts.metrics
        self.source = parts.source
        self.backend = parts.backend
        self.inputs = parts.inputs
        self.watermark_ms = MIN_TIME
        self.ended = False
        self.woken = False
        self._exits = parts.exits
        self._outputs: Sequence[Output] = [output for exit_ in parts.exits for output in exit_.outputs]
        self._clock = parts.clock
        self._floor = parts.floor
        self._on_barrier = parts.on_barrier
        self._limit = self._most_records = parts.batch_records
        self._running: Iterator[tuple[int, Batch]] | None = None
        self._next: tuple[int, Batch] | None = None
        self._turn = 0
        self._alignment = Alignment(parts.inputs, parts.aligned, parts.clock)
        self._trigger = 0
        self._drain = 0
        self._after_barrier: list[Callable[[], None]] = []
        self._marks = [MIN_TIME] * (len(parts.operators) + 1)
        self._idle_sent = False
        self._ending = False
        self._pollers = [n for n, op in enumerate(self.operators) if type(op).poll is not Operator.poll]
        self._holders = [n for n, op in enumerate(self.operators) if type(op).release is not Operator.release]
        self._markers = [n for n, op in enumerate(self.operators) if _makes_watermarks(op)]
        self._waiting = self._missed_wake = False
        self._ended_operators = 0
        self._slowest_ns = 0
        self._timed = [n for n, op in enumerate(self.operators) if _overrides_processing_time(op)]
        last = len(self.operators) - (0 if self.source is not None else 1)
        # A source stage counts its source as position 0 and its operators from 1.
        self._first = 0 if self.source is None else 1
        self._main = [exit_ for exit_ in self._exits if exit_.position == last and not exit_.tag]
        self._side = [exit_ for exit_ in self._exits if exit_ not in self._main]

    # What the loop calls

    def step(self) -> bool:
        """Do one bounded piece of work; False if there is nothing to do now."""
        if self._running is not None:
            return self._drive()
        if self._trigger:
            drains = self._trigger == self._drain
            if drains and self.source is not None and self.watermark_ms < MAX_TIME:
                return self._ready() and self._begin(self._advance(MAX_TIME))
            if not (drains and self._pending()):
                self._pass_barrier(self._trigger)
                self._forget_trigger()
                return True
        if self.woken and self._ready():
            self.woken = False
            return self._begin(self._poll())
        if self._timed and self._ready() and self._processing_time_due():
            return self._begin(self._on_processing_time(self._clock.now_ms()))
        if self.source is not None:
            return self._step_source(self.source)
        return self._step_inputs()

    def release(self) -> bool:
        """Send on what operators hold back to save work; False if that is nothing, or there is no room for it now."""
        if not self._holders or self._running is not None or not self._ready():
            return False
        return any(self._emit_all(self._flow(n, self.operators[n].release())) for n in self._holders)

    def trigger(self, checkpoint: int) -> None:
        """Sources: pass barrier `checkpoint` before reading on."""
        if not self._alignment.is_void(checkpoint):
            # A lower one that has not passed is cancelled; what waited for it belongs before this one.
            self._forget_trigger()
            self._trigger = checkpoint

    def drain(self, checkpoint: int) -> None:
        """Barrier `checkpoint`, which has not come yet, drains: sources let all event time pass before it, and where something is
        in flight it waits, since the watermark does as well."""
        self._drain = checkpoint

    def after_barrier(self, work: Callable[[], None]) -> None:
        """Sources: do `work` now, or when the barrier that was triggered has passed or is void."""
        if self._trigger:
            self._after_barrier.append(work)
        else:
            work()

    def abort(self, checkpoint: int) -> None:
        """Checkpoints ≤ `checkpoint` are void: release what is held for them and ignore their barriers."""
        self._alignment.void(checkpoint)
        if self._alignment.is_void(self._trigger):
            self._forget_trigger()

    def next_due_ms(self) -> int | None:
        """In how many ms `step` will have something to do without any message; `None`: not by time alone."""
        if self._running is not None or not self._ready():
            return None
        waits: list[int] = []
        times = [self.operators[n].next_processing_time() for n in self._timed]
        due = min((at for at in times if at is not None), default=None)
        if due is not None:
            waits.append(max(0, due - self._clock.now_ms()))
        if self.source is not None:
            reading = self.source.wait_ms() if self._accepts() else None
            waits += [wait for wait in (reading, self.source.idle_in_ms()) if wait is not None]
        return min(waits, default=None)

    @property
    def reached_ms(self) -> int:
        """The watermark up to which all of the state has been processed, which a restore must not fall behind."""
        return max(self._floor.lowest_ms, self.watermark_ms)

    @property
    def group_watermarks(self) -> list[tuple[int, int, int]]:
        """Where some key groups had got further before a rescale: (first group, group after the last, watermark) of all."""
        reached = self._floor.reached(self.watermark_ms)
        return reached if len(reached) > 1 else []

    @property
    def alignment_ms(self) -> int:
        """How long the last alignment took."""
        return self._alignment.took_ms

    @property
    def suspended(self) -> bool:
        """Whether it waits for room in an output."""
        return self._running is not None

    def mark_of(self, operator: int) -> int:
        """The watermark that the operator at `operator` was given last."""
        return self._marks[operator]

    def close(self) -> None:
        """Close operators, source and backend, whatever state they are in."""
        if self._running is not None and hasattr(self._running, "close"):
            try:
                self._running.close()
            except Exception:
                pass
        for operator in self.operators:
            try:
                operator.close()
            except Exception:
                pass
        if self.source is not None:
            self.source.close()
        if self.backend is not None:
            self.backend.close()

    # Sources

    def _step_source(self, source: SourceOperator) -> bool:
        if self.ended or not self._ready():
            return False
        if source.ended and not source.stopped:
            waiting = self.watermark_ms == MAX_TIME and self._pending()
            return not waiting and self._begin(self._end())
        if source.wait_ms() == 0 and self._accepts():
            return self._begin(self._read(source))
        return self._update_source_idleness(source)

    def _read(self, source: SourceOperator) -> Iterator[tuple[int, Batch]]:
        for batch in source.read(self._limit):
            if self._idle_sent:
                # Before the first record: while we are taken for idle, the others' watermark may pass it.
                self._send_mark(self._marks[-1])
            if batch.tag:
                yield 0, batch
            else:
                yield from self._push(0, batch, 0)
        mark = source.advance()
        if mark > self.watermark_ms:
            yield from self._advance(mark)

    def _update_source_idleness(self, source: SourceOperator) -> bool:
        mark = source.advance()
        if mark > self.watermark_ms:
            return self._begin(self._advance(mark))
        if source.idle and not self._idle_sent:
            self._send_idle()
            return True
        return False

    # Inputs

    def _step_inputs(self) -> bool:
        inputs = self.inputs
        ready = self._ready()
        for offset in range(len(inputs)):
            number = (self._turn + offset) % len(inputs)
            channel = inputs[number]
            if channel.held or not channel.queue:
                continue
            kind, value, _ = channel.queue[0]
            if kind == BARRIER:
                channel.queue.popleft()
                if self._alignment.arrive(number, value):
                    if value == self._drain and self._pending():
                        self._trigger = value
                    else:
                        self._pass_barrier(value)
                return True
            if not ready:
                continue
            if kind == DATA:
                if not self._accepts():
                    continue
                self._turn = (number + 1) % len(inputs)
                return self._begin(self._push(0, channel.take_batch(self._limit), channel.port))
            channel.queue.popleft()
            return self._on_control(channel, kind, value)
        if self._ending and ready and not self.ended and not self._pending():
            return self._begin(self._end())
        return False

    def _on_control(self, channel: Input, kind: int, value: int) -> bool:
        if kind == WATERMARK:
            channel.idle = False
            channel.watermark_ms = max(channel.watermark_ms, value)
        elif kind == IDLE:
            channel.idle = True
        elif kind == END:
            channel.ended = True
            channel.idle = False
            channel.watermark_ms = MAX_TIME
            if all(other.ended for other in self.inputs):
                return self._begin(self._end())
        # An input through which all time has passed holds nothing back, but neither may it speak for idle ones, which can
        # come back.
        open_inputs = [other for other in self.inputs if other.watermark_ms < MAX_TIME]
        active = [other.watermark_ms for other in open_inputs if not other.idle]
        if open_inputs and not active:
            if not self._idle_sent:
                self._send_idle()
            return True
        if self._idle_sent:
            self._send_mark(self._marks[-1])
        mark = min(active, default=MAX_TIME)
        return mark <= self.watermark_ms or self._begin(self._advance(mark))

    def _pass_barrier(self, checkpoint: int) -> None:
        for number in self._holders:
            # What is held back belongs before the barrier. It is little, so it may wait in an output without room.
            self._emit_all(self._flow(number, self.operators[number].release()))
        self._on_barrier(self, checkpoint)
        for output in self._outputs:
            output.send_control(BARRIER, checkpoint)
        self._alignment.void(checkpoint)

    def _forget_trigger(self) -> None:
        self._trigger = 0
        waiting, self._after_barrier = self._after_barrier, []
        for work in waiting:
            work()

    # Work, as iterators of (position, batch)

    def _push(self, position: int, batch: Batch, port: int) -> Iterator[tuple[int, Batch]]:
        """Run a batch through the operators from `position` on."""
        if position == len(self.operators):
            yield position + self._first - 1, batch
            return
        operator = self.operators[position]
        while position in self._pollers and not operator.accepts_input:
            # In the middle of a chain: what comes from above may be a million windows.
            yield from self._flow(position, operator.poll())
            if not operator.accepts_input:
                yield position, _NOT_NOW
        self.metrics[position + self._first].records_in += len(batch)
        yield from self._flow(position, operator.process(batch, port))

    def _flow(self, position: int, outputs: Iterable[Batch]) -> Iterator[tuple[int, Batch]]:
        """Batches that the operator at `position` yields, sent on through those behind it."""
        metrics = self.metrics[position + self._first]
        for out in outputs:
            metrics.records_out += len(out)
            if out.tag:
                yield position + self._first, out
            else:
                yield from self._push(position + 1, out, 0)

    def _advance(self, mark: int) -> Iterator[tuple[int, Batch]]:
        """Let the watermark run through the operators and on to the outputs."""
        self.watermark_ms = mark
        yield from self._advance_from(0, mark)

    def _advance_from(self, position: int, mark: int) -> Iterator[tuple[int, Batch]]:
        for number in range(position, len(self.operators)):
            if mark <= self._marks[number]:
                return
            self._marks[number] = mark
            operator = self.operators[number]
            yield from self._flow(number, operator.on_watermark(mark))
            mark = operator.output_watermark(mark)
        if mark > self._marks[-1]:
            self._marks[-1] = mark
            self._send_mark(mark)

    def _poll(self) -> Iterator[tuple[int, Batch]]:
        for number in self._markers:
            operator = self.operators[number]
            for out in operator.poll():
                # A watermark that was released before these records must stay before them.
                yield from self._advance_from(number + 1, operator.output_watermark(self._marks[number]))
                yield from self._flow(number, (out,))
            yield from self._advance_from(number + 1, operator.output_watermark(self._marks[number]))

    def _on_processing_time(self, now_ms: int) -> Iterator[tuple[int, Batch]]:
        for number in self._timed:
            due = self.operators[number].next_processing_time()
            if due is not None and due <= now_ms:
                yield from self._flow(number, self.operators[number].on_processing_time(now_ms))

    def _end(self) -> Iterator[tuple[int, Batch]]:
        """The end of input: the last watermark, what operators still have to say, then the end itself."""
        if self.watermark_ms < MAX_TIME:
            yield from self._advance(MAX_TIME)
        while not self._pending() and self._ended_operators < len(self.operators):
            number = self._ended_operators
            self._ended_operators += 1
            yield from self._flow(number, self.operators[number].on_end())
        if self._pending():
            # Called again when what is in flight has been handed out.
            self._ending = True
            return
        for output in self._outputs:
            output.send_control(END, 0)
        self.ended = True

    # Helpers

    def _begin(self, work: Iterator[tuple[int, Batch]]) -> bool:
        self._running = work
        self._slowest_ns = 0
        self._drive()
        return True

    def _drive(self) -> bool:
        """Pull from the running iterator while outputs have room; False if they had none at the start.

        One batch is pulled beyond that: mostly there is none, and then barriers can pass before the outputs have room.
        """
        running = self._running
        assert running is not None  # noqa: S101
        if not self._ready():
            return False
        if self._waiting:
            if not self.woken:
                return False
            self._waiting = self.woken = False
            self._missed_wake = True
        began = time.perf_counter_ns()
        now = began
        try:
            if self._next is not None:
                self._emit(*self._next)
                self._next = None
            for position, batch in running:
                if batch is _NOT_NOW:
                    self._waiting = True
                    return True
                if not self._ready():
                    self._next = position, batch
                    return True
                self._emit(position, batch)
                before, now = now, time.perf_counter_ns()
                self._slowest_ns = max(self._slowest_ns, now - before)
                if now - began > QUANTUM_NS:
                    return True
        except CheckdamError:
            raise
        except Exception as error:
            raise user_error(self.stage.name, "(not known)", error) from error
        finally:
            self.metrics[0].busy_ns += time.perf_counter_ns() - began
        self._adapt(max(self._slowest_ns, time.perf_counter_ns() - now))
        self._running = None
        if self._missed_wake:
            # The wake was taken for the operator that had refused records; others may have meant it too.
            self._missed_wake, self.woken = False, True
        return True

    def _adapt(self, took_ns: int) -> None:
        if took_ns > SLOW_CALL_NS:
            self._limit = max(16, self._limit // 2)
        elif took_ns < FAST_CALL_NS and self._limit < self._most_records:
            self._limit = min(self._most_records, self._limit * 2)

    def _emit_all(self, work: Iterator[tuple[int, Batch]]) -> bool:
        """Emit whatever room there is; False if there was nothing to emit."""
        emitted = False
        for position, batch in work:
            self._emit(position, batch)
            emitted = True
        return emitted

    def _emit(self, position: int, batch: Batch) -> None:
        if not batch.values:
            return
        if not batch.tag:
            for exit_ in self._main:
                exit_.emit(batch)
            return
        for exit_ in self._side:
            if exit_.position == position and exit_.tag == batch.tag:
                exit_.emit(batch.tagged(""))

    def _ready(self) -> bool:
        # A loop, because this is asked at every step and a generator would cost more than its elements.
        for output in self._outputs:  # noqa: SIM110
            if output.pending:
                return False
        return True

    def _accepts(self) -> bool:
        return all(self.operators[n].accepts_input for n in self._pollers)

    def _pending(self) -> bool:
        return any(self.operators[n].has_pending() for n in self._pollers)

    def _processing_time_due(self) -> bool:
        now_ms = self._clock.now_ms()
        for number in self._timed:
            due = self.operators[number].next_processing_time()
            if due is not None and due <= now_ms:
                return True
        return False

    def _send_mark(self, mark: int) -> None:
        self._idle_sent = False
        for output in self._outputs:
            output.send_control(WATERMARK, mark)

    def _send_idle(self) -> None:
        self._idle_sent = True
        for output in self._outputs:
            output.send_control(IDLE, 0)


def _makes_watermarks(operator: Operator) -> bool:
    """Whether its watermark may move by itself, so that it must be looked at when it has called `wake`."""
    kind = type(operator)
    return kind.poll is not Operator.poll or kind.output_watermark is not Operator.output_watermark


def _overrides_processing_time(operator: Operator) -> bool:
    return type(operator).next_processing_time is not Operator.next_processing_time
