"""Wordings that ask for a short answer, a caption or one of several options. Source:
docs/reference.md#prompts.

The strings are data that published weights were trained with, spelling mistakes included: one is
drawn by its index in the list, so order and repetitions matter.
"""

SHORT_ANSWER = (
    "Answer this question very briefly\n{question}",
    "{question} Answer with a few words",
    "{question} Respond very briefly",
    "{question} Answer directly without any details, explanation, or elaboration",
    "I have a question about this image, please answer it very briefly: {question}",
    "Question: {question} Short Answer:",
    "Question: {question}\nShort Answer:",
    "{question}\nAnswer the question as briefly as possible.",
    "Answer very briefly:\n{question}",
    'The question "{question}" can be answered using the image. A short answer is',
    "{question} Based on the image, respond to this question with a short answer:",
    "{question} Short answer:",
    "{question} A short answer to the question is",
    "Give a short, matter-of-fact answer to this question: {question}",
    (
        "Give me a simple, direct answer to this question, do not elaborate or explain your "
        "answer:\n{question}"
    ),
)

SHORT_CAPTION = (
    "Caption the image with 1 or two sentences",
    "Write a very short description of this image.",
    "Briefly describe the image.",
    "Look and this image, and then summarize it in a sentence or two.",
    "Write a brief caption describing the image",
    "Brief Caption:",
    "A short image caption:",
    "A short image description",
    "Briefly describe the content of the image.",
    "Can you give me one sentence summary of the picture?",
    "How would you describe this image in a sentence or two?",
)

LONG_CAPTION = (
    "Describe this image.",
    "Describe this image",
    "describe the image",
    "Write a long description of this image.",
    "caption the picture",
    "Caption",
    "caption",
    "Construct a long caption for this image",
    "Generate a caption",
    "Create a detailed caption",
    "Write a long caption",
    "Describe this image in detail",
    "Describe this",
    "describe this",
    "Caption this",
    "What can be seen in this image?",
    "What do you see in the image?",
    "Look at this photo carefully and then tell me about it in detail",
    "Write a long description of this image",
    "Tell me about this picture.",
    "Write a paragraph about this image.",
    "Look at this image carefully and then describe it in detail",
    "Generate a long caption about this image.",
)

TRANSCRIPT = (
    "Describe this image as if you are a person speaking",
    (
        "Imagine you are a person talking about this image. Generate a transcript of what you "
        "would say."
    ),
    "Generate an audio transcript of a person describing this image",
    "Create a transcript of a human describing this image out load",
    "Describe this in this style of a human talking",
)

VIDEO_MOTION_CAPTION = (
    "Describe the motion in this video.",
    "Describe the motion in this clip",
    "describe the motion in the video",
    "Motion-focused caption",
    "motion-focused caption",
    "Create a detailed video caption centered on motion",
    "Describe this video in detail with attention to motion cues",
    "Caption this video with a focus on motion",
    "Tell me about the motion in this video.",
    "Watch the clip closely and describe the motion in detail",
)

VIDEO_OBJECT_CAPTION = (
    "Caption the {object} in the video with 1 or two sentences.",
    "Write a very short description of the {object} in this video.",
    "Briefly describe the {object} in the video.",
    "Look at the {object} in this video, and then summarize it in a sentence or two.",
    "Write a brief caption describing the {object} in this video.",
    "Brief caption of the {object} in the video:",
    "A short video caption for the {object}:",
    "A short description of the {object} in the video.",
    "Can you give me one sentence summarizing the {object} in this video?",
    "How would you describe the {object} in this video in a sentence or two?",
)

VIDEO_CLIP_CAPTION = (
    "Describe this video from {start_time} to {end_time}.",
    "describe the video from {start_time} to {end_time}.",
    "Write a long description of this video from {start_time} to {end_time}.",
    "caption the video from {start_time} to {end_time}.",
    "Caption {start_time} to {end_time}.",
    "caption {start_time} to {end_time}.",
    "Construct a long caption for this video from {start_time} to {end_time}.",
    "Generate a caption for {start_time} to {end_time}.",
    "Create a detailed caption for {start_time} to {end_time}.",
    "Write a long caption for {start_time} to {end_time}.",
    "Describe this video in detail from {start_time} to {end_time}.",
    "Describe this from {start_time} to {end_time}.",
    "describe this from {start_time} to {end_time}.",
    "Caption this from {start_time} to {end_time}.",
    "What can be seen in this video from {start_time} to {end_time}?",
    "What do you see in the video from {start_time} to {end_time}?",
    (
        "Look at this video carefully from {start_time} to {end_time} and then tell me about "
        "it in detail"
    ),
    "Write a long description of this video from {start_time} to {end_time}.",
    "Tell me about this video from {start_time} to {end_time}.",
    "Write a paragraph about this video from {start_time} to {end_time}.",
    "Generate a long caption about this video from {start_time} to {end_time}.",
)

VIDEO_CLIP_TRANSCRIPT = (
    "Describe this video as if you are a person speaking from {start_time} to {end_time}.",
    (
        "Imagine you are a person talking about this video from {start_time} to {end_time}. "
        "Generate a transcript of what you would say."
    ),
    (
        "Generate an audio transcript of a person describing this video from {start_time} to "
        "{end_time}"
    ),
    "Create a transcript of a human describing this video out load from {start_time} to {end_time}",
    "Describe this from {start_time} to {end_time} in this style of a human talking",
)

VIDEO_FRAME_CAPTION = (
    "Describe this video frame at {timestamp}.",
    "describe the video frame at {timestamp}.",
    "Write a long description of this video frame at {timestamp}.",
    "caption the video at {timestamp}.",
    "Caption the video frame at {timestamp}.",
    "caption the frame at {timestamp}.",
    "What can be seen in this video frame at {timestamp}?",
    "What do you see in the video frame at {timestamp}?",
    "Look at this video frame carefully at {timestamp} and then tell me about it in detail",
    "Write a long description of this video frame at {timestamp}.",
    "Tell me about this video frame at {timestamp}.",
    "Write a paragraph about this video frame at {timestamp}.",
    "Generate a long caption about this video frame at {timestamp}.",
)

MULTIPLE_CHOICE = (
    "{question}\n{options}\nReturn only the letter of the best answer option",
    "Answer this question by naming one of the provided options:\n{question}\n{options}",
    "{question}\n{options}\nWhat option best answers the question?",
    "{question}\n{options}\nReturn the best answer option",
    (
        "Look at the options, then return the letter of the option that best answers the "
        "question.\nQuesiton: {question}\nOptions: {options}"
    ),
    "{question}? Select an answer option from:\n{options}",
    "{question}\nSelect an answer option from:\n{options}\n\n",
    "Question: {question}? Options: {options} Answer:",
    "Answer the question by selecting an answer options\nQuestion: {question}\nOptions: {options}",
    "{question}?\n{options}\nReturn only the letter of the correct answer",
    (
        'Help me answer this question: "{question}", by stating which of the following options '
        "is correct\n{options}."
    ),
)

MULTIPLE_CORRECT = (
    (
        "{question}\n{options}\nReturn the best answer option(s). In the case of multiple "
        "correct options, separate them with newlines."
    ),
    (
        "{question}\n{options}\nWhat option(s) best answers the question? In the case of "
        "multiple correct options, separate them with newlines."
    ),
    (
        "{question}\n{options}\nReturn the best answer option(s). In the case of multiple "
        "correct options, separate them with newlines."
    ),
    (
        "Look at the options, then return the letter(s) of the option(s) that best answers the "
        "question.\nQuesiton: {question}\nOptions: {options}"
    ),
    "Question: {question}? Options: {options} Answer:",
)

CHAIN_OF_THOUGHT = ("{question} Provide reasoning steps and then give the short answer.",)
