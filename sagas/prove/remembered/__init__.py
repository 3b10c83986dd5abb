"""The memory of one search: equal parts of worlds are one object, and a question about the same objects is asked once.

A unit of the journal is a pure function of the run, the call and the time, and many worlds share these and differ in
the rest. So `Canon` replaces each part of a new world by the first part that was equal to it, and `Known` keeps the
answer to each question about such parts: the result of a unit, the answer of a participant, the laws at an end. Each
unit is still repeated and each law is still checked, once for each question. A story is played again without this
memory.
"""
