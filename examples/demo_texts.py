"""What the demo asks about. The embedded model is very small: these are things that it can do."""

PARAGRAPH = (
    "Maria Silva, 34, moved from Lisbon to Porto last year. "
    "She found work at the port within a week, and says she has never been happier."
)

STORY = "Write a story of about ten sentences about a lighthouse keeper in a storm."

REVIEWS = (
    "Excellent. I love it and use it every day.",
    "It broke after one day. A waste of money.",
    "The best coffee I ever had.",
    "Terrible service, and they were rude to us.",
    "Works perfectly, and it arrived early.",
    "The screen was cracked and nobody answers my mails.",
    "My children adore this game.",
    "I want my money back, it is useless.",
    "Great value, I would buy it again.",
    "Awful taste. I threw it away.",
    "Beautiful room, friendly people, wonderful view.",
    "Dirty towels and a horrible smell.",
    "A delightful book from beginning to end.",
    "Boring, far too long, a bad film.",
    "The support was fast and very kind.",
    "It never worked, not even once.",
    "Fantastic sound for such a small speaker.",
    "The worst pizza in town.",
    "I am so happy with this bike.",
    "Poor quality, it fell apart in my hands.",
)
