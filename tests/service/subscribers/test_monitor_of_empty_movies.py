"""What the live display says about movies in which there is nothing to see."""

import msgspec

from tests.service.subscribers.test_monitor import BEAT, event, full_board, record, screen

WHY = "no particle stands out (structure 0.4, usually 15.0); empty ice, carbon, a broken film, or a hole without ice?"


def test_an_empty_movie_is_marked_and_is_no_step_of_the_learning_curve():
    board = full_board(0)
    for number, (gain, empty) in enumerate(((2.0, None), (1.0, WHY))):
        flags = [f"specimen: nothing to see here: {empty}"] if empty else []
        body = msgspec.to_builtins(record(f"m{number}", flags=flags))
        score = {"version": "v0001", "gain": gain, "gain_error": 0.1, "expected_gain": None}
        body["metrics"] |= {"empty": empty, "score": score}
        board.add(event("movie", body, number + 1))
    lines = screen(board).splitlines()
    assert [("empty" in line) for line in lines if line.lstrip().startswith(("m0", "m1"))] == [True, False]
    assert any("█ 2.00×" in line for line in lines)
    assert "m1: specimen: nothing to see here" in lines[-1]


def test_how_many_are_empty_in_a_row_stands_beside_the_specimen():
    board = full_board(3)
    rates = {**BEAT.rates, "specimen": 2.0, "empty_in_a_row": 12.0}
    board.beat(msgspec.structs.replace(BEAT, rates=rates))
    text = screen(board)
    assert "2, 12 empty in a row" in text
    assert max(map(len, text.splitlines())) <= 80
    board.beat(msgspec.structs.replace(BEAT, rates={**rates, "empty_in_a_row": 0.0}))
    assert "in a row" not in screen(board)


def test_the_share_of_the_field_that_the_figures_are_of_is_shown_where_it_is_not_all():
    board = full_board(0)
    for number, share in enumerate((0.62, 1.0, None)):
        body = msgspec.to_builtins(record(f"m{number}"))
        body["metrics"] |= {"usable_share": share}
        board.add(event("movie", body, seq=number + 1))
    assert "62%" not in screen(board, 80)  # there is no room for it
    lines = screen(board, 100).splitlines()
    assert any("field" in line and "SSNR" in line for line in lines)
    shown = {line.split()[0]: line for line in lines if line.lstrip().startswith(("m0", "m1", "m2"))}
    assert {name: "62%" in line for name, line in shown.items()} == {"m0": True, "m1": False, "m2": False}
    assert not any("100%" in line for line in shown.values())
