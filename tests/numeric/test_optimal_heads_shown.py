"""How the best heads show themselves: plain numbers, and what infinite values mean."""

import icltheory as icl
from numeric import optimal_heads

TASK = icl.LinearRegression(dim=1)


def test_one_length_has_plain_numbers():
    best = optimal_heads(TASK, icl.SoftmaxAttention(heads=2), 10)
    assert "np." not in repr(best)
    assert repr(best).startswith("OptimalHeads(prompt_length=10, risk=0.")
    assert "inf" not in repr(best)
    assert isinstance(best.prompt_length, int)
    assert isinstance(best.risk, float)
    assert len(str(best).splitlines()) == 3


def test_infinite_values_are_explained():
    best = optimal_heads(TASK, icl.SoftmaxAttention(heads=4), [6, 9])
    for text in (repr(best), str(best), best._repr_html_()):
        assert "inf" in text
        assert "np." not in text
        assert "the limit of small opposite scores" in text
    assert [line.split()[0] for line in str(best).splitlines()[1:9]] == ["6"] * 4 + ["9"] * 4
    assert best.prompt_length.tolist() == [6, 9]
