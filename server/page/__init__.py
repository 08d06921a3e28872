"""The page at ``/``: static HTML, CSS and ES modules, and the routes that serve them.

    routes.py      the routes, with their security headers
    index.html     structure of the page
    page.css       its style

    scripts/
    page.js        connects the parts
    api.js         client of the server's API
    state.js       shared state, and subscriptions to its changes
    charts.js      probabilities, thumbnails, heat maps, scores
    answer.js      the answer, and the signature that gave it
    layers.js      the templates that each layer uses
    people.js      choice of task and user
    revisions.js   a user's revisions, and undo
    teach.js       labelled samples, learning from them, scores before and after
    collected.js   which samples are kept to teach, and which back
    tour.js        every task's answer, to every domain of a drawing

    scripts/drawing/
    paper.js       the paper, and how the drawing becomes a sample
    strokes.js     drawing by mouse, pen, finger and keyboard
    framing.js     strokes → pixels, in the format of the training data
    domains.js     the four domains of the quickstart, as in train/data/domains.py
    examples.js    ten example digits

    scripts/samples/
    kinds.js       which kind of samples a network takes, and the page's words for it
    intake.js      samples from files, the camera and the microphone
    tray.js        the samples that were given, each with its answer
    chart.js       a recording or a sound, with its windows marked
    sketch.js      a small picture of one sample
    pictures.js    image → sample, resized as by runtime/samples/pictures
    bytes.js       bytes of a file, and their text
    csv.js         text → lines and records, as Python's csv
    table.js       CSV file → header and rows
    names.js       labels, groups and columns by their normal form
    recordings.js  table → windows
    sounds.js      sound → windows of its spectrogram
    spectrogram.js log-mel spectrograms, as in runtime/samples/sounds
    windows.js     where windows begin

    scripts/devices/
    open.js        camera or microphone, and why there is none
    camera.js      preview and photographs
    microphone.js  a recording of some seconds
    capture.js     what runs beside the page and receives the microphone's samples
    decode.js      sound file → samples at one rate
    wave.js        WAV file ↔ samples

No build step, and nothing from another host.
"""
