"""The page at ``/``: static HTML, CSS and ES modules, and the routes that serve them.

    routes.py      the two routes, with their security headers
    index.html     structure of the page
    page.css       its style

    scripts/
    page.js        connects the parts
    api.js         client of the server's API
    state.js       shared state, and subscriptions to its changes
    strokes.js     drawing by mouse, pen, finger and keyboard
    framing.js     strokes → pixels, in the format of the training data
    domains.js     the four domains of the quickstart, as in train/data/domains.py
    examples.js    ten example digits
    charts.js      probabilities, thumbnails, heat maps, scores
    answer.js      the answer, and the signature that gave it
    layers.js      the templates that each layer uses
    people.js      choice of task and user
    revisions.js   a user's revisions, and undo
    teach.js       labelled drawings, learning from them, scores before and after
    tour.js        every task's answer to every domain

No build step, and nothing from another host.
"""
