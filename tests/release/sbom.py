"""Validates a CycloneDX document, and compares it with the list of dependencies in a program:
`sbom.py DOCUMENT AUDIT-JSON`."""

import json
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

document = Path(sys.argv[1]).read_text()
if errors := JsonStrictValidator(SchemaVersion.V1_5).validate_str(document):
    sys.exit(f"{sys.argv[1]} is no CycloneDX 1.5: {errors}")
listed = {(part["name"], part["version"]) for part in json.loads(document)["components"]}
built = [part for part in json.loads(Path(sys.argv[2]).read_text())["packages"] if part.get("kind") != "build"]
missing = [part for part in built if not part.get("root") and (part["name"], part["version"]) not in listed]
if missing or len(built) < 100:
    sys.exit(f"the program holds {len(built)} packages; the SBOM lacks {missing}")
print(f"the SBOM is valid and lists {len(listed)} components, among them the {len(built)} of the program")
