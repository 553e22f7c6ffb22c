"""How agents are assessed: figures against the targets of ``desk.toml``; the agent of the day. KPI-1 to KPI-7. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from ari_app.flow.measures import Figure
from ari_app.rules import Assessment, Target


@dataclass(frozen=True)
class Mark:
    """One figure of an agent against its target."""

    target: Target
    figure: Figure

    @property
    def met(self) -> bool | None:
        """None: no target, or nothing to count."""
        value = self.figure.value
        if value is None or not (self.target.at_least or self.target.at_most):
            return None
        return value >= self.target.at_least if self.target.at_least else value <= self.target.at_most

    @property
    def missed(self) -> int:
        """Cases that miss, of a figure that counts them; 0 of one that nothing tells."""
        bad = self.figure.numerator if self.target.at_most else self.figure.denominator - self.figure.numerator
        return round(bad)

    @property
    def points(self) -> float:
        """Off."""
        return self.missed * self.target.points_each if self.target.points_each else 0.0

    @property
    def yuan(self) -> float:
        """Off."""
        cases = self.missed * self.target.yuan_each if self.target.yuan_each else 0.0
        return cases + self._steps * self.target.yuan_a_step

    @property
    def _steps(self) -> int:
        """Whole steps by which it misses; in fractions, so that 4.6 is one step of 0.1 below 4.7, not almost one."""
        if not self.target.step or self.met is not False:
            return 0
        value = Fraction(self.figure.numerator) / Fraction(self.figure.denominator)
        wanted = Fraction(str(self.target.at_least or self.target.at_most))
        return int(abs(wanted - value) / Fraction(str(self.target.step)))


def marks(rules: Assessment, figures: Mapping[str, Figure]) -> list[Mark]:
    """Of one agent, whose figures these are by id; in the order of the rules."""
    return [Mark(target, figures[target.measure]) for target in rules.targets]


def agent_of_the_day(rules: Assessment, by_agent: Mapping[str, Mapping[str, Figure]]) -> str | None:
    """Who took the most calls among those whose callers were content; among equals the higher score, then the shorter
    handle time. None: nobody has the score. KPI-7.
    """

    def is_liked(figures: Mapping[str, Figure]) -> bool:
        satisfaction = figures["satisfaction"]
        return (
            satisfaction.denominator >= rules.best_ratings_at_least
            and (satisfaction.value or 0.0) >= rules.best_score_at_least
        )

    def rank(agent: str) -> tuple[float, float, float, str]:
        figures = by_agent[agent]
        score, handle_s = (figures[id].value or 0.0 for id in ("satisfaction", "handle_time"))
        return -figures["calls_a_day"].numerator, -score, handle_s, agent

    return min((agent for agent, figures in by_agent.items() if is_liked(figures)), key=rank, default=None)
