"""Replies that real workers once sent, and what callers got for them.

``record.py`` recorded the replies in ``replies.json``. ``expected/`` holds the answers of the
endpoint and of the command. After a change that is meant to change an answer, write them again and
read the difference:

    python -m tests.recorded
"""
