{{/* A pod of Weir's, of (dict "root" $ "labels" name "container" name "resources" values "pause" seconds).
     The names are those of templates: its labels, and what its container alone has. */}}

{{- define "weir.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include .labels $root | nindent 4 }}
    {{- with $root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or $root.Values.podAnnotations $root.Values.externalSecret.enabled }}
  annotations:
    {{- if $root.Values.externalSecret.enabled }}
    # Other references, other pods. Settings need no such annotation: they are part of the pod.
    checksum/external-secret: {{ $root.Values.externalSecret.data | toJson | sha256sum }}
    {{- end }}
    {{- with $root.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
spec:
  serviceAccountName: {{ include "weir.serviceAccountName" $root }}
  automountServiceAccountToken: false
  # No variables for each Service of the namespace: they could look like settings.
  enableServiceLinks: false
  # Any preStop, then the time that what runs gets, then a reserve.
  terminationGracePeriodSeconds: {{ add .pause (ceil $root.Values.settings.SHUTDOWN_GRACE) 5 }}
  securityContext:
    {{- toYaml $root.Values.podSecurityContext | nindent 4 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  containers:
    - name: weir
      image: {{ include "weir.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      securityContext:
        {{- include "weir.containerSecurityContext" $root | nindent 8 }}
      env:
        {{- include "weir.env" $root | trim | nindent 8 }}
      {{- with $root.Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with include .container $root }}
      {{- . | nindent 6 }}
      {{- end }}
      resources:
        {{- toYaml .resources | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        - name: data
          mountPath: /data
        {{- if $root.Values.models.existingClaim }}
        - name: models
          mountPath: /models
          readOnly: true
        {{- end }}
        {{- with $root.Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 1Gi
    - name: data
      {{- if $root.Values.persistence.enabled }}
      persistentVolumeClaim:
        claimName: {{ default (include "weir.fullname" $root) $root.Values.persistence.existingClaim }}
      {{- else }}
      emptyDir:
        sizeLimit: 1Gi
      {{- end }}
    {{- with $root.Values.models.existingClaim }}
    - name: models
      persistentVolumeClaim:
        claimName: {{ . }}
        readOnly: true
    {{- end }}
    {{- with $root.Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- if $root.Values.topologySpreadConstraints }}
    {{- toYaml $root.Values.topologySpreadConstraints | nindent 4 }}
    {{- else }}
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include $.labels $root | nindent 10 }}
      # Each version for itself: during an upgrade the old pods do not count.
      matchLabelKeys: [pod-template-hash]
    {{- end }}
    {{- end }}
{{- end }}
