"""The import laws: who may know whom."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
FORBIDDEN = {("calibration", "rigs"), ("calibration", "studio"), ("rigs", "calibration"), ("rigs", "studio")}
BAD_NAMES = {"utils", "common", "core", "base", "helpers", "manager", "misc"}


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module]
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def test_cameras_and_bodies_do_not_know_each_other_nor_the_studio():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package in ("calibration", "rigs")
        for path in sources(package)
        for name in imports(path)
        if (package, name.split(".")[0]) in FORBIDDEN
    ]
    assert not wrong, wrong


def test_nothing_outside_imports_training_code():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("studio")
        if path.relative_to(ROOT).parts[1] != "train" and path.relative_to(ROOT).parts[1] != "cli"
        for name in imports(path)
        if name.startswith("studio.train")
    ]
    assert not wrong, wrong


def test_stages_do_not_import_each_other():
    stages = {"detect", "sync", "track", "fit", "export", "review"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("studio")
        if (own := path.relative_to(ROOT).with_suffix("").parts[1]) in stages
        for name in imports(path)
        if name.startswith("studio.") and name.split(".")[1] in stages - {own}
    ]
    assert not wrong, wrong


def test_the_smplx_package_is_imported_only_where_a_user_loads_such_a_file():
    wrong = [
        str(path.relative_to(ROOT))
        for package in ("calibration", "rigs", "studio")
        for path in sources(package)
        for node in ast.parse(path.read_text()).body  # module level only
        if isinstance(node, ast.Import | ast.ImportFrom) and any(n.split(".")[0] == "smplx" for n in imports_of(node))
    ]
    assert not wrong, wrong


def imports_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]


def test_video_is_opened_in_two_modules_files_and_live_sources():
    # A live source cannot seek, has no index and breaks, so it shares nothing with files but the library.
    wrong = [
        str(path.relative_to(ROOT))
        for package in ("calibration", "rigs", "studio")
        for path in sources(package)
        if "VideoCapture" in path.read_text()
        or (path.relative_to(ROOT).as_posix() not in ("studio/video.py", "studio/live.py") and "av" in imports(path))
    ]
    assert not wrong, wrong


def test_no_module_is_a_grab_bag():
    assert not [p for package in ("calibration", "rigs", "studio") for p in sources(package) if p.stem in BAD_NAMES]
