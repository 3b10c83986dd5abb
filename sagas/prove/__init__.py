"""Prove: explore every way in which a saga can fail, before it is deployed.

This folder owns the search and its model of the world. It may import `amends.sagas.engine`, `amends.sagas.definition`,
`amends.compensations` and `amends.aggregates`. It drives the same protocol as the drivers, on a journal in memory whose
records are frozen, so that forking a world costs one pointer. Only `runtime` reads a clock, and only `sql` imports
SQLAlchemy.

Public names, which the command line, the pytest plugin and the pages build on:

| name | module | use |
|---|---|---|
| `explore(saga, input, ...)` | `runtime.explore` | explore, and return a `Report` |
| `replay(token, saga, input, ...)` | `runtime.explore` | play a story again, and return a `Story` |
| `Experiment`, `Prepared` | `experiment` | the question of a search; `run_experiment` answers it |
| `contract_matrix(experiment, ...)` | `runtime.matrix` | the contracts under which a saga holds |
| `explore_plan(plan, ...)` | `plans.reachable` | the ways in which runs of a plan can end, without user code |
| `Report`, `BrokenLaw`, `Verdict` | `report` | the answer |
| `Story`, `StoryLine`, `BookLine` | `story` | a story in words, with its facts and the participants' books |
| `End` | `end` | what a user's invariant receives |
| `Law`, `LAWS` | `laws` | the laws, each with a sentence for users |
| `Coverage`, `Row` | `coverage` | the transitions that stories have used |
| `Participant`, `Contract` | `amends.sagas.definition.participants` | the promises of the services that effects call |

Start reading with `moves` and `laws`. These are the parts, from below:

    books        the memory of the participants, and their answers
    values       copies of users' values, so that worlds can be forked and compared
    problem      the error that ends a search
    memory       the journal in memory: `MemoryTx`, aggregates, own tables
    moves        the kinds of moves, with cost and sentence
    functions    the user's functions, run for real or replaced
    world        one state of the search, and the part of it on which the future depends
    terms        the participant of each effect, and the contract to explore
    remembered   equal parts of worlds are one object, and a question about the same objects is asked once
    units        units of the journal on a world, each one repeated
    network      calls that arrive, answers that come back, workers that die
    player       all moves of a world
    laws         the laws
    coverage     the transitions that stories have used
    search       breadth by faults, equal worlds once, random stories at the end of the budget
    end, token   the end of a story for the user's invariant; a story in one short word
    story        a story in plain words
    experiment   the saga, its input and the assumptions of a search
    plans        searches of a plan alone, without the user's functions
    sql          the user's own tables, forked for each world
    report       the verdict, and for each broken law a shortest story
    runtime      searches within a time budget, the contract matrix, and `@prove`
"""
