"""Tests the judge: it finds each kind of wrong write, and accepts the right ones."""

import unittest

from fight import DEADLINE, Turn, Write, judge


def turn(holder, at):
    return Turn("calry-gitops", holder and f"{holder}_x", holder, at, at + 0.01, 4)


def write(replica, began, ended=None):
    return Write(replica, "acme", "BOOM", began, began + 0.1 if ended is None else ended)


class Judge(unittest.TestCase):
    turns = [turn("a", 0), turn("a", 1), turn("b", 5), turn("", 6), turn("a", 7)]

    def found(self, *writes, **more):
        return " ".join(judge(writes, self.turns, **more))

    def test_what_is_right_is_left_alone(self):
        good = [("a", 0.1), ("a", 1 + DEADLINE), ("b", 5.1), ("b", 5.9), ("b", 6.1), ("a", 7.1)]
        self.assertEqual(judge([write(*one) for one in good], self.turns), [])

    def test_each_wrong_is_found(self):
        self.assertIn("never held", self.found(write("c", 1)))
        self.assertIn("never held", self.found(write("b", 4.9)))
        self.assertIn("after it renewed", self.found(write("a", 4.4)))
        self.assertIn("although calry-gitops went to b", self.found(write("a", 3.9, ended=5.2)))
        self.assertIn("although calry-gitops went to b", self.found(write("a", 3.9, ended=float("inf"))))
        self.assertIn("although calry-gitops went to a", self.found(write("b", 7.1)))
        self.assertIn("meanwhile", self.found(write("a", 3.9, ended=5.2), write("b", 5.1)))

    def test_one_request_of_who_was_frozen_is_excused(self):
        thaws = [("a", 5.1)]
        self.assertEqual(self.found(write("a", 5.2), write("b", 5.2), thaws=thaws), "")
        self.assertIn("after it renewed", self.found(write("a", 5.2), write("a", 5.4), thaws=thaws))
        self.assertIn("after it renewed", self.found(write("a", 6.2), thaws=thaws))
        self.assertIn("after it renewed", self.found(write("a", 5), thaws=thaws))

    def test_of_who_was_frozen_as_many_requests_are_excused_as_it_has_at_once(self):
        late = [write("a", 5.2), write("a", 5.2), write("a", 5.3)]
        self.assertEqual(self.found(*late[:2], write("b", 5.2), thaws=[("a", 5.1)], in_flight=2), "")
        self.assertIn("after it renewed", self.found(*late, thaws=[("a", 5.1)], in_flight=2))
