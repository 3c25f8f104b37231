"""Tests of the report parsers: a failure that a load program reports is counted."""

import unittest
import unittest.mock

import load

WRK = """Running 10m test @ http://127.0.0.1:18052/
  1 threads and 50 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     0.99ms  727.32us  14.01ms   89.43%
    Req/Sec    51.05k     9.50k   64.84k    60.00%
  Latency Distribution
     50%  810.00us
     75%    1.20ms
     90%    1.80ms
     99%    3.50ms
  152135 requests in 3.00s, 20.17MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:  50697.88
"""

HEY = """
Summary:
  Total:	0.8139 secs

Latency distribution:
  50% in 0.0030 secs
  99% in 0.0068 secs

Status code distribution:
  [200]	4990 responses
  [503]	7 responses

Error distribution:
  [2]	Get "http://127.0.0.1:18052/": EOF
  [1]	Get "http://127.0.0.1:18052/": dial tcp 127.0.0.1:18052: connect: connection refused
"""


def read(kind, out):
    """The report as its class parses it."""
    program = kind.__new__(kind)
    program.name = "x"
    program.folder = unittest.mock.Mock()
    return program.read(out, 3.0)


class Reports(unittest.TestCase):
    def test_wrk(self):
        result = read(load.Wrk, WRK)
        self.assertEqual((result.requests, result.failed), (152145, 15))
        self.assertEqual((result.p50, result.p99), (0.81, 3.5))

    def test_wrk_with_nothing_to_complain_of(self):
        out = "\n".join(line for line in WRK.splitlines() if "errors" not in line and "Non-2xx" not in line)
        self.assertEqual((read(load.Wrk, out).requests, read(load.Wrk, out).failed), (152135, 0))

    def test_hey(self):
        result = read(load.Hey, HEY)
        self.assertEqual((result.requests, result.failed), (5000, 10))
        self.assertEqual(result.failures, {"status 503": 7, "EOF": 2, "connection refused": 1})
        self.assertEqual((result.p50, result.p99), (3.0, 6.8))


if __name__ == "__main__":
    unittest.main()
