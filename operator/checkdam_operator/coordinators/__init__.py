"""The way to the coordinators of jobs: their HTTP API (`client`), and what is known of each of them (`watch`).

A coordinator is a third source of news, beside the watches of the API server: each one is followed by a request that it answers when something has changed.
Decisions read what is known and never wait for an answer.
"""
