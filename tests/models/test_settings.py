from models.settings import is_held_out


def test_a_quarter_of_the_movies_is_never_learned_from():
    """The second movie of a session is held out, so that the gate has something to look at from the start."""
    assert [index for index in range(20) if is_held_out(index)] == [1, 2, 7, 11, 15, 19]
    assert sum(map(is_held_out, range(4000))) == 1001
