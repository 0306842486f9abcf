"""Wordings that ask to follow objects through a video. Source: docs/reference.md#points-and-tracks.

The strings are data that published weights were trained with, spelling mistakes included: one is
drawn by its index in the list, so order and repetitions matter.
"""

TRACK_WITHOUT_FPS = (
    "Track {label}.",
    "track the {label}.",
    "track every {label}.",
    "track each {label}",
    'please track "{label}".',
    "Track: {label}",
    "tracking: {label}",
    " track the all {label}",
)

TRACK = (
    "Track {label} in {fps} FPS.",
    "Track {label} at {fps} FPS",
    "Track the {label} in {fps} FPS",
    (
        "Track all instances of '{label}' in this video, sampling at {fps} frames per second. "
        "Show the position coordinates at each timestamp."
    ),
    (
        "Follow the {label} throughout this video. Sample positions at {fps} FPS and mark each "
        "with coordinates."
    ),
    (
        "Identify and track each {label} in this video clip. Sample at {fps} frames per second "
        "and provide point coordinates."
    ),
    (
        "Monitor the movement of all {label} in this video. Sample at {fps} FPS and output "
        "their positions as coordinates."
    ),
    (
        "For each {label} in the video, track its position throughout the clip sampling at "
        "{fps} FPS. Return coordinates at each sampled frame."
    ),
    (
        "Track all instances of '{label}' in this video, sampling at {fps} frames per second. "
        'Show the position coordinates at each timestamp, given as <track coords="t id x '
        'y">label</tracks>.'
    ),
    (
        "For each {label} in the video, track its position throughout the clip sampling at "
        '{fps} FPS. Return coordinates at each sampled frame, given as <track coords="t id x '
        'y">label</tracks>.'
    ),
)

FIRST_AND_LAST = (
    (
        "For each '{label}' in this video, identify only its first and last appearances with "
        "precise coordinates."
    ),
    (
        "Locate when each {label} first appears and last appears in the video. Provide exact "
        "coordinates for both moments."
    ),
    "Find the coordinates of {label} at their entry and exit points in this video.",
    "Mark the positions of each {label} at its first and final appearances in the video.",
    "Show where each {label} enters and exits the frame with exact point coordinates.",
    (
        "For each '{label}' in this video, identify only its first and last appearances with "
        'precise coordinates, given as <track coords="t id x y">label</tracks>.'
    ),
    (
        "Show where each {label} enters and exits the frame with exact point coordinates, "
        'given as <track coords="t id x y">label</tracks>.'
    ),
)

TRACK_SINGLE_POINT = (
    "Track {input_points} in {fps} FPS.",
    "{input_points} track in {fps} FPS.",
    "{input_points} Track the object in {fps} FPS.",
    (
        'Track the following point {input_points} given as <points coords="t id x '
        'y">label</points>. Provide coordinates at {fps} frames per second'
    ),
    (
        'Follow this point {input_points} in the video, given as <points coords="t id x '
        'y">label</points>. Sample at {fps} FPS and provide coordinates for each frame.'
    ),
    (
        'For the point {input_points} in <points coords="t id x y">label</points> format, '
        "track its position in every frame of the video at {fps} FPS."
    ),
    (
        "Track the movement of the point {input_points} frame-by-frame at {fps} FPS, providing "
        "position coordinates for each frame."
    ),
    "Can you track the point {input_points} format throughout the video at {fps} FPS?",
    (
        'Starting from the point {input_points} in <points coords="t id x y">label</points> '
        "format, track its position at {fps} FPS."
    ),
    "Sample at {fps} FPS and provide coordinates for the point {input_points}.",
    "Object tracking: {input_points} starting position, {fps} FPS rate.",
    (
        'Object tracking: {input_points} formatted as <points coords="t id x '
        'y">label</points>, {fps} FPS rate.'
    ),
)
