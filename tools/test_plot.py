"""Tests of tools/plot: `python3 -m unittest tools/test_plot.py`."""

import importlib.machinery
import importlib.util
import pathlib
import subprocess
import sys
import unittest
import xml.etree.ElementTree as ElementTree

SCRIPT = pathlib.Path(__file__).with_name("plot")
TABLE = """
| work | Fula | Other 1.0 | Fula to Other |
|---|---|---|---|
| PUT & GET | 1 000/s | 250/s | 4.0 |
| LIST | 1.5 ms | 3.0 ms | 0.5 |

| work | ratio |
|---|---|
"""


OVERWRITES = """
| PUTs so far | seconds | files | MiB on disk |
|---|---|---|---|
| 10 000 | 9 | 400 | 10 |
| 20 000 | 19 | 800 | 5 |
"""


def load():
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader("plot", str(SCRIPT))
    spec = importlib.util.spec_from_loader("plot", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


PLOT = load()


class Plot(unittest.TestCase):
    def test_the_table_is_read_without_ratios(self):
        servers, rows = PLOT.table_of(TABLE)
        self.assertEqual(servers, ["Fula", "Other 1.0"])
        self.assertEqual(rows, [
            ("PUT & GET", [(1000.0, "1 000/s"), (250.0, "250/s")]),
            ("LIST", [(1.5, "1.5 ms"), (3.0, "3.0 ms")]),
        ])

    def test_bars_are_as_long_as_their_values(self):
        svg = ElementTree.fromstring(PLOT.picture_of(TABLE))
        bars = [float(bar.get("width")) for bar in svg.iter("{http://www.w3.org/2000/svg}rect")][1:]
        self.assertEqual([bars[0] / bars[1], bars[3] / bars[2]], [4.0, 2.0])
        texts = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
        self.assertIn("PUT & GET", texts)
        self.assertEqual((texts.count("more is better"), texts.count("less is better")), (1, 1))

    def test_what_is_no_such_table_is_refused(self):
        for page in ["", TABLE + TABLE, TABLE.replace("1 000/s", "fast"), TABLE.replace("250/s", "250 ms")]:
            with self.assertRaises(PLOT.Unreadable):
                PLOT.table_of(page)

    def test_a_line_goes_through_the_values_of_its_column(self):
        svg = ElementTree.fromstring(PLOT.overwrites_of(OVERWRITES))
        lines = [line.get("points").split() for line in svg.iter("{http://www.w3.org/2000/svg}polyline")]
        files, mib = [[tuple(map(float, point.split(","))) for point in line] for line in lines]
        # Up is less, and equal values of two columns lie at the same height.
        self.assertLess(files[1][1], files[0][1])
        self.assertEqual((files[0][1], files[1][1]), (mib[1][1], mib[0][1]))
        self.assertGreater(files[1][0], files[0][0])

    def test_overwrites_without_rows_or_values_are_refused(self):
        for page in [TABLE, OVERWRITES + OVERWRITES, OVERWRITES.replace("400", "0").replace("800", "0")]:
            with self.assertRaises(PLOT.Unreadable):
                PLOT.overwrites_of(page)

    def test_the_picture_is_that_of_the_table(self):
        done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
