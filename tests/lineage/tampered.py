"""What the tests of lineages ask of a chain, and ways to break its links."""

import json

from usam_core.lineage.chain import read_chain
from usam_core.lineage.document import LINEAGE
from usam_core.lineage.show import broken_links
from usam_core.steps.lineage_checks import check_chain

PNG = "out/annotate/masks/s1.png"


def broken(file):
    return [(f.link and f.link[0], f.name) for f in broken_links(check_chain(read_chain(file)))]


def sentences(file):
    return "\n".join(f.text for f in broken_links(check_chain(read_chain(file))))


def document(root, step):
    return json.loads((root / "out" / step / LINEAGE).read_text())


def replace_head(root):
    head = root / "out" / "fit" / "student.safetensors"
    head.write_bytes((root / "out" / "fit" / "teacher.safetensors").read_bytes())


def change_bytes(name):
    def tamper(root):
        file = root / name
        content = bytearray(file.read_bytes())
        content[-9] ^= 1
        file.write_bytes(content)

    return tamper


def lose(name):
    return lambda root: (root / name).unlink()


def edit_json(name, *keys):
    def tamper(root):
        file = root / name
        whole = json.loads(file.read_text())
        inner = whole
        for key in keys[:-2]:
            inner = inner[key]
        inner[keys[-2]] = keys[-1]
        file.write_text(json.dumps(whole))

    return tamper
