"""Values from outside, made safe to store and to show: JSON, checksums and exceptions. Pure.

It may import `errors`, `damage` and `text`, and nothing else of Amends.

Start with `strict_json`, which defines the JSON that Amends accepts; `json_codec` applies it to typed values.
`roundtrip` finds differences between a value and the value that is read back, `checksum` detects changed rows, and
`error_report` describes any exception as data.
"""
