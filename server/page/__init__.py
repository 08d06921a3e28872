"""The page at ``/``: HTML, CSS and ES modules as they are, and the routes that hand them out.

    routes.py      the two routes, and what browsers are told about them
    index.html     what is on the page
    page.css       how it looks
    page.js        puts the parts together
    api.js         the server, as functions
    state.js       what the page knows, and who is told when that changes
    strokes.js     drawing by mouse, pen, finger and keyboard
    framing.js     strokes → pixels, as the network knows them from its training
    domains.js     the four domains of the quickstart, as in train/data/domains.py
    examples.js    ten digits, drawn
    charts.js      probabilities, thumbnails, heat maps, scores
    answer.js      whose network answered, and what
    layers.js      which templates each layer uses
    people.js      whose network is asked
    revisions.js   a user's revisions, and how undoing finds its way through them
    teach.js       drawings with labels, learning from them, before and after
    tour.js        every task's answer to every domain

No build, nothing from another host; every file is small enough to be read as it is.
"""
