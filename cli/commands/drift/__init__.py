"""Commands about drift: scans, corrections, exceptions from them, and schedules.

`drift` only reads, `reconcile` records and corrects, `reconciliations` shows past scans; `ignore` and `maintenance`
hold corrections back, and `schedule` runs rules automatically (`schedule_list` prints its tables).

They may import every part of `amends.cli` but `app`. Start reading in `drift`.
"""
