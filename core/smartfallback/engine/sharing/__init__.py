"""How an instance shares quotas, circuits, rests and admin states with others.

Memory stays primary: requests are decided on what is known here. What others did comes in, and what
was done here goes out, on tasks of its own; see :class:`~smartfallback.engine.sharing.sharing.Sharing`.
"""
