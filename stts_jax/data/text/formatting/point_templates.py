"""Wordings that ask for points in an image or in several images. Source:
docs/reference.md#points-and-tracks.

The strings are data that published weights were trained with, spelling mistakes included: one is
drawn by its index in the list, so order and repetitions matter.
"""

POINTING = (
    "Point to {label}\nPlease say 'There are none.' if it is not in the image.",
    'Point to all occurrences of "{label}"',
    "Point to any {label} in the image",
    "Point to any {label} in the image.",
    "Point: Where are the {label}",
    "Show me where the {label} are",
    "Can you show me where the {label} are?",
    "Show me where the {label} are",
    "Show me where a {label} is",
    "Show me where a {label} is.",
    "If there are any {label} in the image? Show me where they are.",
    "Where are the {label}?",
    "Generate a list of points showing where the {label} are.",
    'Find the "{label}".',
    'Find a "{label}".',
    "Locate all {label}.",
    "Locate an {label}.",
    "Locate a {label}.",
    "Locate every {label}.",
    "Locate {label}.",
    "Locate the {label}.",
    "Object: {label}\nInstruction: Point to the object.",
    "find {label}",
    "find {label}.",
    "Point to every {label}",
    "find any {label} in the picture",
    "Find the {label}",
    "Find any {label}",
    "Point to a {label}",
    "Point to an {label}",
    "Look for {label} in the image and show me where they are.",
    "Help me find an object in the image by pointing to them.\nObject: {label}.",
    "I am looking for {label}, where can they be found in the image?",
    "Can you see any {label} in the image? Point to them.",
    "Point out each {label} in the image.",
    "Point out every {label} in the image.",
    "Point to the {label} in the image.",
    "Locate each {label} in the image.",
    "Can you point out all {label} in this image?",
    "Please find {label} and show me where they are.",
    "If there are any {label} present, indicate their positions.",
    "If there is a {label} present, indicate its positions.",
    "show me all visible {label}",
)

POINT_COUNT = (
    "How many {label} are there?",
    "How many {label}?",
    "How many {label}.",
    "how many {label}.",
    "how many {label}?",
    'How many "{label}" are there in the image?',
    "How many {label} are there in the image?",
    "Tell me how many {label} there are",
    "Tell me how many {label} there are and point to them.",
    "how many {label}",
    "Tell me where each {label} is.",
    "Tell me how many {label} are in the image",
    "count {label}",
    "count every {label}",
    "count each {label}",
    "count {label}.",
    "Count the {label}.",
    "How many {label} do you see?",
    "How many {label} are visible?",
    "Count all the {label}",
    "how mmny {label}?",
    "Count every {label} in the picture.",
    "Count all the {label}",
    "Count each {label}",
    "Point to and count the {label} in the picture.",
    "Point and count {label}",
    "Point to every {label}",
    "Locate the {label} and count them",
    "Locate every {label} and count them",
    "Find all the {label}. How many are there?",
    "Find each {label}. How many are there?",
    "Point at {label} and then tell me the count.",
    "What is the total number of {label} in the image?",
    "What is the number of {label}?",
    "In this image, how many {label} are there?",
    "In all the picture, how many {label} are there?",
    "Point at the {label} and then count them.",
    "Point to all the visible {label} output the total count.",
    (
        "Point to all the {label} visible and output the total count. \nPlease say 'There are "
        "none.' if it is not in the image."
    ),
    'Point to all occurrences of "{label}" and output the total count.',
    "Show me where the {label} are and output the total count.",
    "Where are the {label}? How many are there?",
    "Generate list of points showing where the {label} are and output the total count.",
    "Object: {label}\nInstruction: Point to the object and output the total count.",
    "find any {label} in the picture and output the total count.",
    "Can you see any {label} in the image? Point to them and output the total count.",
    "Can you point out all {label} in this image? How many are there?",
    "If there are any {label} present, indicate their positions and output the total count.",
    "How many {label} are there in the image? Point to them and output the total count.",
    "How many {label} are there in the image?",
    "Give me the count of {label} in the image.",
    "How many {label} are visible in the image?",
    "How many {label} are there?",
    "In the image, how many {label} are there?",
    "Can you count the number of {label} in the image?",
    "Can you count every {label} in the picture?",
    "Can you see any {label} in the image? How many are there?",
    "Are there any {label} in the image? How many are there?",
    "If you see any {label} in the image, give me the count. Otherwise, say 'There are none.'",
    "Object: {label}\nInstruction: How many are there?",
)

COUNT_THEN_POINT = (
    "Count the {label} in the image, then point to them.",
    "How many {label} are there? Point to them.",
    "Count every {label} in the picture, then point to them.",
    "Locate the {label} and count them, then point to them.",
    "Find all the {label}. How many are there? Point to them.",
    "Find each {label}. How many are there? Point to them.",
)

ONLY_COUNT = (
    "Count the {label} in the image.",
    "How many {label} are there?",
    "Count every {label} in the picture.",
    "Locate the {label} and count them.",
    "Find all the {label}. How many are there?",
    "Find each {label}. How many are there?",
)

MULTI_IMAGE_POINTING = (
    "Find {selected_label} in {selected_images}.",
    "find {selected_label} in {selected_images}.",
    "Point to {selected_label} in {selected_images}.",
    "Point to any {selected_label} in {selected_images}.",
    "Point to all {selected_label} in {selected_images}.",
    'Point to all occurrences of "{selected_label}" in {selected_images}.',
    "Can you point to {selected_label} in {selected_images}?",
    "Show me where the {selected_label} are in {selected_images}?",
    "Show me where a {selected_label} is in {selected_images}?",
    "Show me where a {selected_label} is in {selected_images}.",
    "In {selected_images}, point to {selected_label}.",
)

MULTI_IMAGE_POINT_THEN_COUNT = (
    "How many {selected_label} are there in {selected_images}?",
    "how many {selected_label} are there in {selected_images}?",
    "How many {selected_label} are there in {selected_images}.",
    "count {selected_label} in {selected_images}?",
    "count every {selected_label} in {selected_images}?",
    "count each {selected_label} in {selected_images}?",
    "count {selected_label} in {selected_images}.",
    "Count the {selected_label} in {selected_images}.",
    "Point then count {selected_label} in {selected_images}.",
    "Point and count {selected_label} in {selected_images}.",
    "Can you point and count {selected_label} in {selected_images}?",
    "Can you point then count {selected_label} in {selected_images}?",
    "Point to {selected_label} in {selected_images}, then count them.",
    "Point to all {selected_label} in {selected_images}, then count them.",
)

MULTI_IMAGE_COUNTING = (
    "Total {selected_label} across {selected_images}?",
    "How many {selected_label} are there in total across {selected_images}?",
    "Compute the sum of {selected_label} counts over {selected_images}.",
    "What is the combined number of {selected_label} across all images?",
    "Add up the {selected_label} across {selected_images}; whats the result?",
    "Provide the aggregate count of {selected_label} over {selected_images}.",
    "Across {selected_images}, how many {selected_label} in aggregate?",
    "Whats the total when you sum {selected_label} across {selected_images}?",
    "Give the grand total of {selected_label} across {selected_images}.",
)

MULTI_IMAGE_COUNT_THEN_POINT = (
    "Total {selected_label} across {selected_images}? Then point to the result.",
    (
        "How many {selected_label} are there in total across {selected_images}? After "
        "answering, point to the total."
    ),
    (
        "Compute the sum of {selected_label} counts over {selected_images}, then point to the "
        "total count."
    ),
    (
        "What is the combined number of {selected_label} across all images? Afterwards, point "
        "to where the total applies."
    ),
    (
        "Add up the {selected_label} across {selected_images}; what's the result? Then point "
        "to the total."
    ),
    (
        "Provide the aggregate count of {selected_label} over {selected_images}, and point to "
        "that total after answering."
    ),
    "Across {selected_images}, how many {selected_label} in aggregate? Then point to the total.",
    (
        "What's the total when you sum {selected_label} across {selected_images}? After that, "
        "point to the corresponding location."
    ),
    (
        "Give the grand total of {selected_label} across {selected_images}, then point to the "
        "total afterward."
    ),
)
