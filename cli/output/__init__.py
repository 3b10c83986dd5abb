"""Output of the commands: answers on stdout, remarks on stderr, and the live display of `amends run`.

The folder owns every write to the terminal except the error line of `cli.app`. It may import `cli.views`, `cli.project`
and the packages below the command line, but neither `cli.runtime` nor `cli.commands`. Start reading in `answer` and
`remarks`.
"""
