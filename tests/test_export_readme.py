"""The README's table of animation files: every writer, and behind every cell a test of that claim."""

import ast
from pathlib import Path

from studio.export import EXPORTERS

ROOT = Path(__file__).parents[1]
JOINTS = "test_joints_and_deformed_mesh_come_back_within_a_hundredth_of_a_millimetre"
ROOTED = "test_export_curves::test_a_root_bone_moves_no_joint_in_a_file"
RATES = "test_export_curves::test_files_of_another_rate_hold_the_same_movement"
PRESETS = "test_export_character::test_a_preset_comes_back_from_every_format"
PROOF = {
    ("fbx", "motion"): "test_export_ufbx::test_every_joint_is_where_the_body_has_it_on_every_frame",
    ("fbx", "skin"): f"test_export_fbx::{JOINTS}",
    ("fbx", "face"): "test_export_ufbx::test_the_default_body_has_apples_52_names_exactly",
    ("fbx", "actors in a file"): "test_export_ufbx::test_actors_of_one_file_hang_below_nodes_of_their_own",
    ("fbx", "root bone"): "test_export_ufbx::test_a_root_bone_carries_the_path_and_moves_no_joint",
    ("fbx", "timecode"): "test_export_fbx::test_time_begins_at_the_timecode_in_every_place_that_says_so",
    ("fbx", "`--fps`"): "test_export_fbx::test_keys_lie_on_the_frames_of_every_rate",
    ("fbx", "fewer keys"): "test_export_ufbx::test_fewer_keys_miss_no_rotation_and_no_place_by_more_than_was_allowed",
    ("fbx", "uncertainty"): "test_export_fbx::test_contacts_and_sigmas_are_animated_properties_when_asked_for",
    ("fbx", "other skeletons"): PRESETS,
    ("bvh", "other skeletons"): PRESETS,
    ("glb", "other skeletons"): PRESETS,
    ("bvh", "motion"): "test_bvh::test_joints_come_back_within_two_micrometres",
    ("bvh", "root bone"): ROOTED,
    ("bvh", "`--fps`"): RATES,
    ("glb", "motion"): f"test_export_glb::{JOINTS}",
    ("glb", "skin"): f"test_export_glb::{JOINTS}",
    ("glb", "face"): "test_export_glb::test_the_default_body_survives_with_its_52_face_shapes",
    ("glb", "actors in a file"): "test_export_glb::test_several_actors_share_a_file_and_keep_apart",
    ("glb", "root bone"): ROOTED,
    ("glb", "timecode"): "test_export_glb::test_the_timecode_is_noted_at_the_actors_node",
    ("glb", "`--fps`"): RATES,
    ("glb", "fewer keys"): "test_export_glb::test_fewer_keys_keep_every_frame_within_the_stated_error",
    ("usd", "motion"): f"test_export_usd::{JOINTS}",
    ("usd", "skin"): f"test_export_usd::{JOINTS}",
    ("usd", "face"): "test_export_usd::test_face_shapes_carry_their_names_and_weights",
    ("usd", "actors in a file"): "test_export_usd::test_actors_of_one_file_keep_apart_and_keep_letters_of_all_scripts",
    ("usd", "root bone"): ROOTED,
    ("usd", "timecode"): "test_export_usd::test_unit_axis_and_rate_stand_in_the_file",
    ("usd", "`--fps`"): RATES,
    ("usd", "fewer keys"): "test_export_usd::test_fewer_keys_keep_every_frame_within_the_stated_error",
    ("npz", "motion"): "test_export_amass::test_the_smplx_package_plays_the_file_to_the_same_vertices",
    ("npz", "face"): "test_export_amass::test_the_smplx_package_plays_the_file_to_the_same_vertices",
    ("arkit", "motion"): "test_export_face::test_head_and_eyes_turn_about_their_own_axes",
    ("arkit", "face"): "test_export_face::test_columns_are_the_apps_and_rows_are_the_weights",
    ("arkit", "timecode"): "test_export_face::test_columns_are_the_apps_and_rows_are_the_weights",
    ("c3d", "motion"): "test_export_c3d::test_joint_centres_come_back_within_a_thousandth_of_a_millimetre",
    ("c3d", "uncertainty"): "test_export_c3d::test_residuals_are_the_standard_deviation_to_a_quarter_of_a_millimetre",
    ("trc", "motion"): "test_export_tables::test_trc_has_opensims_header_and_the_chosen_up_axis",
    ("csv", "motion"): "test_export_tables::test_csv_rows_are_world_positions_in_metres_at_video_frames",
    ("csv", "face"): "test_export_tables::test_the_face_table_has_one_row_per_frame_and_a_column_per_shape",
    ("csv", "uncertainty"): "test_export_tables::test_csv_rows_are_world_positions_in_metres_at_video_frames",
}


def table() -> dict[str, dict[str, str]]:
    """Format -> column -> cell of the README's table."""
    text = (ROOT / "README.md").read_text()
    lines = text[text.index("## Animation files") :].splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("| format "))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[begin:]]
    end = next(n for n, row in enumerate(cells) if row == [""])
    return {row[0].strip("`"): dict(zip(cells[0][1:], row[1:], strict=True)) for row in cells[2:end]}


def test_the_table_lists_exactly_the_writers():
    assert list(table()) == list(EXPORTERS)


def test_every_filled_cell_and_no_other_has_a_test_behind_it():
    claimed = {(form, column) for form, row in table().items() for column, cell in row.items() if cell}
    assert claimed == set(PROOF)
    known = {
        f"{path.stem}::{node.name}"
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert not set(PROOF.values()) - known
