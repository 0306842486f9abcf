"""Wordings of multiple choice questions in training. Source: docs/reference.md#multiple-choice.

The strings are data that published weights were trained with, spelling mistakes included: one is
drawn by its index in the list, so order and repetitions matter.
"""

import string

# What to say where only the label is the answer, e.g. "B".
LABEL_INSTRUCTIONS = (
    "Answer the question with only the option {label}.",
    "Answer with only the option {label}.",
    "Answer with only {label} for the correct option.",
    "Respond with only the answer {label}",
    "Return only the option {label}.",
    "Your answer (option {label} only):",
    "Select one option and provide only its {label}.",
    "Choose the correct answer and return only its {label}.",
    "Reply with just the option {label}, nothing else.",
    "output only the {label} of your chosen answer to the question.",
    "respond with the option {label} only.",
    "Provide your answer as a single option {label} only.",
    "Return the option {label} alone.",
    "State only the option {label}.",
    "please state the correct answer {label}.",
    "Give only the option {label} in your response.",
)

# What to say where the option with its text is the answer, and two more if options have labels.
OPTION_INSTRUCTIONS = (
    "Which option best answers the question?",
    "Return one of the answer options",
    "Return the best answer option.",
    "Answer with one of the options.",
    "Answer the question using one of the options.",
    "Respond with only the correct option.",
    "Generate nothing but the correct option",
    "Your response should be one of the options.",
    "Your response should be one of the options",
    "state the correct option.",
    "Choose one of the options.",
    "Return one of the provided options.",
    "Please directly give the best option.",
    "Return the best option directly.",
)

LABELLED_OPTION_INSTRUCTIONS = (
    "Respond with only the option {label} and its full text.",
    "Give me the option {label} and its text.",
)

# Layouts of the question, the options and one of the instructions.
INSTRUCTION_LAYOUTS = (
    "Question: {question}\n\nOptions:\n{options}\n\n{instruction}",
    "[QUESTION]\n{question}\n\n[OPTIONS]\n{options}\n\n[INSTRUCTION]\n{instruction}",
    "{question}\n\n{options}\n\n{instruction}",
    "{instruction}\n\n{question}\n\n{options}",
    "{instruction}\n{question}\n{options}",
    "Q: {question}\n\n{options}\n\n{instruction}",
    "{question}\n\n---\n{options}\n---\n\n{instruction}",
    "{question}\n\n{options}\n\n{instruction}",
    "{question}\n{options}\n{instruction}",
    "1. Question:\n{question}\n\n2. Options:\n{options}\n\n3. Instructions:\n{instruction}",
    "{question} {options}. {instruction}",
    "Select the correct answer:\n\n{question}\n\n{options}\n\n{instruction}",
    "{question}\n\n\n{options}\n\n\n{instruction}",
    "Question: {question}\n\n{options}\n\nResponse: {instruction}",
    "*** Question ***\n{question}\n\n*** Options ***\n{options}\n\n*** Notes ***\n{instruction}",
)

# Layouts that hold their own instruction.
LABEL_LAYOUTS = (
    "{question}\n{options}\nReturn only the {label} of the best answer option",
    (
        "Answer this question by naming the {label} of one of the provided options:\n"
        "{question}\n{options}"
    ),
    (
        "Look at the options, then return the {label} of the option that best answers the "
        "question.\nQuestion: {question}\nOptions: {options}"
    ),
    "Question: {question} Options: {options} Answer {label}:",
    "Answer the question by selecting an answer {label}\nQuestion: {question}\nOptions: {options}",
    "{question}\n{options}\nReturn only the {label} of the correct answer",
    'Help me answer this question: "{question}", by stating the correct option {label}\n{options}',
    "Question: {question}\n\nChoose one {label}:\n{options}",
    "{question}\n{options}\nReturn the right answer {label} and nothing else.",
)

OPTION_LAYOUTS = (
    "{question}\n{options}\nWhat option best answers the question?",
    "{question}\n{options}\nReturn the best answer option",
    "{question}\n{options}\nPick the best answer.",
    "{question}\n{options}\nPlease return the best answer option.",
    "{question} Select an answer option from:\n{options}",
    "{question}\nSelect the best answer from:\n{options}\n\n",
    "{question}\nReturn the correct answer without any explanation:\n{options}\n",
    "{question}\nPick the right answer and return it:\n{options}\n",
    "Question: {question} Options: {options}. Correct Answer Option:",
    "Question: {question}\nOptions: {options}\nCorrect Answer Option:",
    "Answer the question by selecting an answer option\nQuestion: {question}\nOptions: {options}",
    "Answer the question by selecting an option\nQuestion: {question}\nOptions:\n{options}",
    "{question}\n{options}\nReturn only the correct answer",
    'Help me answer this question: "{question}", by stating the correct option from:\n{options}.',
    'For the question "{question}", return the best option from:\n{options}.',
    "Question: {question}\n\nChoose one:\n{options}",
    "Question: {question}\nChoose from:\n{options}",
    'Question: "{question}"\nChoose from:\n{options}',
    "Question: {question}. Options: {options}. Best Options:\n",
)

# How a label is set off from its option; %s is the label.
COMMON_MARKERS = (
    "%s. ",
    "%s) ",
    "%s: ",
    "(%s) ",
)

RARE_MARKERS = (
    "%s\t",
    "%s ",
    "%s    ",
    "%s =>",
    "%s => ",
    "%s)",
    "%s.",
    "%s.  ",
    "%s:",
    "%s;",
    "%s; ",
    "%s=",
    "(%s)",
    "<%s>",
    "<%s> ",
    "[%s]",
    "[%s] ",
    "{%s}",
    "{%s} ",
)

# (labels, what one of them is called). A string is kept as such: it comes back in the metadata.
LABEL_SETS: tuple[tuple[str | list[str], str], ...] = (
    (string.ascii_uppercase, "letter"),
    (string.ascii_lowercase, "letter"),
    ([str(number) for number in range(1, 21)], "number"),
    (["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"], "numeral"),
)
GENERAL_LABEL_NAMES = ("identifier", "label")

INLINE_SEPARATORS = (";", " ||| ")
BULLETS = ("•", "◦", "▪", "▫", "‣", "\u2043", "∙", "○", "●", "□")
