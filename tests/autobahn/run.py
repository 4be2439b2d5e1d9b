"""Autobahn's client against one server: run.py SITE SPEC [MESSAGES]   (Python 2.7, which is what the suite runs on)

Every case of 12 and 13 sends 1,000 messages through a compressor written in Python, half an hour in all.
What a proxy can break shows in the first few of them, so MESSAGES, where given, is how many are sent.
"""
import site
import sys

place, spec = sys.argv[1:3]
messages = [int(count) for count in sys.argv[3:]]
site.addsitedir(place)
sys.path.insert(0, place)

from autobahntestsuite import case, wstest  # noqa: E402 (found only now)

for one in case.Cases:
    if messages and hasattr(one, "COUNT"):
        one.COUNT = messages[0]

sys.argv = ["wstest", "-m", "fuzzingclient", "-s", spec]
wstest.run()
