"""Chat templates in files, as editors save them."""

from alignax.data.tokenizers import read_template


def test_a_byte_order_mark_is_no_part_of_a_template(tmp_path):
    path = tmp_path / "template.jinja"
    path.write_bytes(b"\xef\xbb\xbf{{ messages[0]['content'] }}\xe2\x9c\x93")
    assert read_template(path) == "{{ messages[0]['content'] }}✓"
